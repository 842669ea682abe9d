"""A number per output channel of several layers, brought together per gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from structprune.pruning.gates import Row


def mean_over_layers(
    size: int, rows: Sequence[Row], values: Mapping[str, Tensor], otherwise: float = 0.0
) -> Tensor:
    """Return the mean of the values that belong to each gate, (size,) float64 on the CPU.

    Args:
        size: number of gates, C.
        rows: layers, which of their channels are meant, and the gates that these belong to.
        values: layer -> a number for each of its channels; a layer that is missing has no say.
        otherwise: what a gate gets that no value belongs to.

    Example:
        >>> rows = [("a", (0, 1), (0, 1)), ("b", (5,), (1,)), ("c", (0,), (2,))]
        >>> values = {"a": torch.tensor([1.0, 2.0]), "b": torch.arange(6.0)}
        >>> mean_over_layers(3, rows, values)
        tensor([1.0000, 3.5000, 0.0000], dtype=torch.float64)
    """
    sums_C, counts_C = torch.zeros(2, size, dtype=torch.float64)
    for layer, channels, gates in rows:
        if layer in values:
            found = values[layer].detach().cpu().double()[list(channels)]
            sums_C.index_add_(0, torch.tensor(gates), found)
            counts_C.index_add_(0, torch.tensor(gates), torch.ones_like(found))
    return torch.where(counts_C > 0, sums_C / counts_C.clamp(min=1), otherwise)
