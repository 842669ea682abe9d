"""A layer refitted the slow way: a column for every weight, by an impulse at it, and rows for the ridge."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def refitted(
    layer: nn.Module, x: Tensor, wanted: Tensor, ridge: float, offset: bool
) -> tuple[Tensor, Tensor]:
    """Return the weight, and the offset of each output, nearest to the layer's own that give what is wanted.

    Args:
        layer: any layer that is linear in its weight, in float64.
        x: its input.
        wanted: what it is to put out, without bias; of a linear layer outputs come last, else second.
        ridge: of the mean square of the columns that an output has.
        offset: whether a constant may be added to every output.
    """
    weight = layer.get_parameter("weight").detach().clone()
    columns_EO = _by_output(layer, torch.stack([_with(layer, x, entry) for entry in _impulses(weight)]))
    meets_EO = _by_output(
        layer, torch.stack([_with(layer, torch.rand_like(x), e) for e in _impulses(weight)])
    )
    missing_O = _by_output(layer, (wanted - _with(layer, x, weight)).unsqueeze(0))[0]
    constants = torch.zeros(len(missing_O), dtype=weight.dtype)
    for o, missing in enumerate(missing_O):
        own = meets_EO[:, o].abs().amax(1) > 0  # the weights that this output depends on
        a, b = columns_EO[own, o].T, missing
        mean_a, mean_b = a.mean(0) * offset, b.mean() * offset
        pull = (ridge * ((a - mean_a) ** 2).sum(0).mean()).sqrt() * torch.eye(a.shape[1], dtype=a.dtype)
        rows = torch.cat([a - mean_a, pull]), torch.cat([b - mean_b, torch.zeros(a.shape[1], dtype=a.dtype)])
        change = torch.linalg.lstsq(*rows).solution
        weight.view(-1)[own] += change
        constants[o] = mean_b - mean_a @ change
    return weight, constants


def _impulses(weight: Tensor) -> list[Tensor]:
    return list(torch.eye(weight.numel(), dtype=weight.dtype).reshape(-1, *weight.shape))


def _with(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.get_parameter("weight").copy_(weight)
        if isinstance(twin.bias, Tensor):
            twin.bias.zero_()
        y: Tensor = twin(x)
    return y


def _by_output(layer: nn.Module, y: Tensor) -> Tensor:
    """(E, N, O, ...) or (E, N, ..., O) to (E, O, rows)."""
    moved = y.movedim(-1, 1) if isinstance(layer, nn.Linear) else y.movedim(2, 1)
    return moved.flatten(2)
