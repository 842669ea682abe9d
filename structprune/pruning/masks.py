"""Masks on weights: which entries of conv and linear weights stay, held as parametrizations.

A masked network computes with zeros and is not faster for it; its masks fold into plain zeros for export.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from structprune.errors import InputError, TargetUnreachableError
from structprune.nn.layers import weighted_layers

Masks = Mapping[str, Tensor]
"""Parameter name -> bool tensor of its shape, True where the weight stays."""


class Mask(nn.Module):
    """The parametrization: a weight times what stays of it.

    Args:
        keep: bool, of the weight's shape.
    """

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with zeros where it doesn't stay."""
        return weight * self.keep


def masked(model: nn.Module, masks: Masks) -> nn.Module:
    """Return a copy of a plain network whose weights are masked; it trains, and what is masked stays zero."""
    copied = copy.deepcopy(model)
    layers = dict(copied.named_modules())
    for name, keep in masks.items():
        layer, _, attribute = name.rpartition(".")
        parametrize.register_parametrization(layers[layer], attribute, Mask(keep))
    return copied


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks that a network carries; none for a plain one."""
    return {
        f"{name}.weight": _parametrization(layer)[0].keep
        for name, layer in weighted_layers(model)
        if parametrize.is_parametrized(layer, "weight") and isinstance(_parametrization(layer)[0], Mask)
    }


def _parametrization(layer: nn.Module) -> Any:
    return layer.parametrizations["weight"]  # type: ignore[index]


def folded(model: nn.Module) -> nn.Module:
    """Return a plain copy with zeros for what is masked, as it is saved and exported."""
    return _plain(model, masked_values=True)


def unmasked(model: nn.Module) -> nn.Module:
    """Return a plain copy with the weights that lie under the masks, for scores that let them come back."""
    return _plain(model, masked_values=False)


def _plain(model: nn.Module, masked_values: bool) -> nn.Module:
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name in masks_of(copied):
            layer = copied.get_submodule(name.rpartition(".")[0])
            parametrization = _parametrization(layer)
            weight = parametrization() if masked_values else parametrization.original
            # torch's own removal takes the property off a class that copies of the layer share.
            layer.__class__ = type(layer).__bases__[0]
            del layer.parametrizations
            others = dict(layer._parameters)
            layer._parameters.clear()
            asks = parametrization.original.requires_grad
            layer.register_parameter("weight", nn.Parameter(weight.detach().clone(), requires_grad=asks))
            layer._parameters.update(others)
    return copied


def select_weights(scores: Mapping[str, Tensor], remove: float) -> dict[str, Tensor]:
    """Choose the weights that stay: exactly round(N (1 - remove)) of all N, by one global ranking.

    Ties go by position, never by comparison with a threshold, which keeps too many or too few.

    Args:
        scores: parameter name -> scores of the weight's shape, larger = keep, finite or minus infinity.
        remove: the fraction to remove, in [0, 1).

    Returns:
        The masks.

    Raises:
        TargetUnreachableError: nothing would be left.
        InputError: a score is NaN.

    Example:
        >>> select_weights({"fc.weight": torch.tensor([[3.0, 1.0], [2.0, 1.0]])}, 0.5)
        {'fc.weight': tensor([[ True, False],
                [ True, False]])}
    """
    flat = torch.cat([value.flatten().double() for value in scores.values()])
    if torch.isnan(flat).any():
        raise InputError("a weight's score is NaN; check the weights and how inputs are normalised")
    kept = kept_count(len(flat), remove)
    if kept < 1:
        raise TargetUnreachableError(f"weights {remove:g} leaves none of {len(flat)}; ask for less")
    keep = _largest(flat, kept)
    pieces = torch.split(keep, [value.numel() for value in scores.values()])
    return {name: piece.reshape(scores[name].shape) for name, piece in zip(scores, pieces, strict=True)}


def _largest(values_N: Tensor, count: int) -> Tensor:
    """Mark the ``count`` largest values, (N,) bool; of those equal to the smallest of them, the first."""
    threshold = values_N.kthvalue(len(values_N) - count + 1).values
    keep = values_N > threshold
    ties = torch.nonzero(values_N == threshold).flatten()
    keep[ties[: count - int(keep.sum())]] = True
    return keep


def kept_count(weights: int, remove: float) -> int:
    """Return how many weights stay, halves rounded up."""
    return math.floor(weights * (1.0 - remove) + 0.5 + 1e-9)


def collapsed(masks: Masks) -> tuple[str, ...]:
    """Return the layers that keep no weight at all: nothing passes them any more."""
    return tuple(name.removesuffix(".weight") for name, keep in masks.items() if not keep.any())


def sparsity(masks: Masks) -> float:
    """Return the fraction of weights that is masked."""
    entries = sum(keep.numel() for keep in masks.values())
    return 1.0 - sum(int(keep.sum()) for keep in masks.values()) / entries if entries else 0.0
