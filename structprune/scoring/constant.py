"""Scores that say nothing: all alike, so that whatever is cut by them is cut by chance."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from structprune.errors import InputError
from structprune.scoring.scores import Scores

ROUNDING = 2e-6
"""How far scores may lie apart, as a fraction of the largest, and still count as the same in float32."""


def check_varying(scores: Scores, within: bool = False) -> None:
    """Refuse scores that rank nothing.

    Args:
        scores: of one criterion.
        within: whether they are to rank channels within their group only; then one group suffices in which
            they differ.

    Raises:
        InputError: they are all zero, or all the same within rounding.
    """
    if not is_constant(scores.values, within):
        return
    size = max(float(value.abs().max()) for value in scores.values.values())
    count = sum(value.numel() for value in scores.values.values())
    what = "zero" if size == 0 else f"the same, {size:.3g}," if not within else "the same within every group"
    raise InputError(
        f"the {scores.criterion} score is {what} for all {count} channels or weights, so that it ranks "
        "nothing and the cut would be arbitrary; choose another score, other data or another loss"
    )


def is_constant(values: Mapping[str, Tensor], within: bool = False) -> bool:
    """Tell whether two or more scores are all the same within rounding, of the network or of every group.

    Example:
        >>> is_constant({"a": torch.ones(3), "b": torch.ones(2)})
        True
        >>> one_a_group = {"a": torch.ones(3), "b": torch.zeros(2)}
        >>> is_constant(one_a_group), is_constant(one_a_group, within=True)
        (False, True)
    """
    flat = [value.flatten().double() for value in values.values() if value.numel()]
    parts = flat if within else [torch.cat(flat)] if flat else []
    parts = [part for part in parts if len(part) > 1]
    return bool(parts) and all(map(_alike, parts))


def _alike(part: Tensor) -> bool:
    return bool(part.max() - part.min() <= ROUNDING * part.abs().max())
