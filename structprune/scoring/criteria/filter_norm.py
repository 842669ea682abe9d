"""Filter norms (Li et al., arXiv 1608.08710)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from structprune.errors import UsageError
from structprune.nn.layers import Attention, ConvTranspose, Recurrent, conv_groups, rows_of, weight_of
from structprune.nn.precision import real_parameter
from structprune.pruning.gates import GatedModel
from structprune.scoring.criteria.aggregation import mean_over_layers
from structprune.scoring.criteria.needs import needs
from structprune.scoring.sampling import Sampling
from structprune.scoring.scores import Scores, finished, per_channel


@needs(targets=False, inputs="none")
def filter_norm(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by the mean |w| of the filters that write a channel.

    A channel that several layers write takes the mean over its filters. Means and not sums, since
    filters of different layers differ in size by orders of magnitude.

    Raises:
        UsageError: the gates are on weights.
    """
    if gated.flow == "weights":
        raise UsageError("filter_norm scores channels, and these gates are on weights; use magnitude")
    layers = dict(gated.model.named_modules())
    writers = {layer for rows in gated.producers.values() for layer, _, _ in rows}
    norms = {layer: _filter_norms(layers[layer]) for layer in writers}
    like = real_parameter(gated.model).dtype
    values = {
        name: mean_over_layers(shape.numel(), gated.producers[name], norms).to(like)
        for name, shape in gated.shapes.items()
    }
    return finished(values, "filter_norm")


def _filter_norms(layer: nn.Module) -> Tensor:
    if isinstance(layer, Recurrent):
        return _unit_norms(layer)
    weight = layer.in_proj_weight.detach() if isinstance(layer, Attention) else weight_of(layer).detach()
    if isinstance(layer, ConvTranspose):  # (I, O / G, k, k): each conv group has its own inputs
        weight = torch.unflatten(weight, 0, (conv_groups(layer), -1)).transpose(1, 2).flatten(0, 1)
    return per_channel(rows_of(layer, weight).abs())


def _unit_norms(layer: Recurrent) -> Tensor:
    """Mean |w| of all rows that write a hidden unit, for every layer and direction, end to end."""
    weights = {name: p.detach().abs() for name, p in layer.named_parameters() if name.startswith("weight")}
    read = [weights[name] for name in weights if name.startswith("weight_ih")]
    kept = [weights[name] for name in weights if name.startswith("weight_hh")]
    rows = [torch.cat(both, 1).mean(1) for both in zip(read, kept, strict=True)]
    return torch.cat([row.reshape(-1, layer.hidden_size).mean(0) for row in rows])
