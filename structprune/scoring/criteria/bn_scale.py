"""Batch-norm scales: network slimming (Liu et al., arXiv 1708.06519) and EarlyBird (arXiv 1909.11957)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from structprune.errors import UsageError
from structprune.nn.layers import BatchNorm
from structprune.nn.precision import real_parameter
from structprune.pruning.gates import GatedModel
from structprune.scoring.criteria.aggregation import mean_over_layers
from structprune.scoring.criteria.needs import needs
from structprune.scoring.sampling import Sampling
from structprune.scoring.scores import Scores, finished

_UNKNOWN = -math.inf


@needs(targets=False, inputs="none")
def bn_scale(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by the mean |gamma| over the batch norms that a channel passes.

    A channel that passes none scores as the largest of the network and goes last: nothing is known of it.

    Raises:
        UsageError: the gates are on weights, or no channel passes a batch norm with a scale.
    """
    if gated.flow == "weights":
        raise UsageError("bn_scale scores channels, and these gates are on weights; use magnitude")
    scales = _scales(gated.model)
    means = {
        name: mean_over_layers(shape.numel(), gated.norms.get(name, ()), scales, otherwise=_UNKNOWN)
        for name, shape in gated.shapes.items()
    }
    largest = torch.cat([*means.values()]).max()
    if largest == _UNKNOWN:
        raise UsageError(
            "bn_scale needs batch norms with scales on the channels that can be cut, and this network has "
            "none there; use filter_norm"
        )
    like = real_parameter(gated.model).dtype
    values = {
        name: torch.where(mean_C == _UNKNOWN, largest, mean_C).to(like) for name, mean_C in means.items()
    }
    return finished(values, "bn_scale")


def _scales(model: nn.Module) -> dict[str, Tensor]:
    """Batch norm -> |gamma|, (C,); none for one without scales."""
    norms = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, BatchNorm))
    return {name: layer.weight.abs() for name, layer in norms if layer.affine}
