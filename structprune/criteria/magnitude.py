"""Filter norms (Li et al., arXiv 1608.08710) and weight magnitudes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from structprune.gates import GatedModel
from structprune.layers import ConvTranspose, conv_groups
from structprune.scores import Sampling, Scores, finished, per_channel


def magnitude(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by absolute weights: |w| on weight gates, mean |w| of the filters on channel gates.

    A channel that several layers write takes the mean over its filters. Means and not sums, since
    filters of different layers differ in size by orders of magnitude.
    """
    weights = {name: p.detach() for name, p in gated.model.named_parameters()}
    if not gated.producers:
        return finished({name: weights[name].abs() for name in gated.shapes}, "magnitude")
    layers = dict(gated.model.named_modules())
    values = {}
    for name, shape in gated.shapes.items():
        sums, counts = torch.zeros(shape, dtype=next(iter(weights.values())).dtype), torch.zeros(shape)
        for layer, channels, gates in gated.producers[name]:
            norms = _filter_norms(weights[f"{layer}.weight"], layers[layer])
            sums.index_add_(0, torch.tensor(gates), norms[list(channels)])
            counts.index_add_(0, torch.tensor(gates), torch.ones(len(gates)))
        values[name] = sums / counts.clamp(min=1)
    return finished(values, "magnitude")


def _filter_norms(weight: Tensor, layer: nn.Module) -> Tensor:
    if isinstance(layer, ConvTranspose):  # (I, O / G, k, k): each conv group has its own inputs
        weight = torch.unflatten(weight, 0, (conv_groups(layer), -1)).transpose(1, 2).flatten(0, 1)
    return per_channel(weight.abs()).cpu()
