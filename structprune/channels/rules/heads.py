"""Where the heads of an attention lie, once its channels are reshaped into heads and their widths."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from structprune.channels.counted import is_number
from structprune.channels.rules.call import MOST_INPUTS

FUSED = 3
"""Widths that lie side by side in one head at most: query, key and value."""


def counted(module: nn.Module, attributes: Iterable[str]) -> Mapping[str, int]:
    """Return those of a module's attributes, by whole names, that are numbers."""
    held = vars(module)
    return {name: int(held[name]) for name in attributes if is_number(held.get(name))}


def heads_along(
    laid: Tensor, varied: Sequence[int], counts: Iterable[int], widths: Iterable[int]
) -> int | None:
    """Tell which dimension counts heads.

    A module that knows how many there are counts them itself: of several dimensions that fit it is the last
    but the width of a head, since there are three heads beside q, k and v at times. One that knows how wide
    they are counts them in the dimension before that.

    Args:
        laid: labels of what is reshaped.
        varied: dimensions along which they differ, two or more.
        counts: how many heads the module says that it has.
        widths: how wide it says that one is; where it doesn't say, anything is.

    Returns:
        The dimension; None where nothing tells.
    """
    widths, counts = list(widths), list(counts)
    if widths and laid.shape[varied[-1]] not in _laid_out(widths, counts):
        return None
    fitting = [d for d in varied[:-1] if any(counts_slices(laid, d, count) for count in counts)]
    if fitting:
        return fitting[-1]
    return varied[-2] if widths else None


def counts_slices(laid: Tensor, dim: int, count: int) -> bool:
    """Tell whether a dimension holds that many different slices, perhaps once for every input."""
    size = laid.shape[dim]
    return count > 1 and size >= count and size % count == 0 and size // count <= MOST_INPUTS


def _laid_out(widths: Sequence[int], counts: Sequence[int]) -> set[int]:
    """Return how wide what lies beside heads may be: a width, or parts of several widths side by side.

    Query, key and value of one width lie so where nobody counts heads; else three times the width may be
    three heads.
    """
    parts = set(widths)
    pairs = {a + b for a, b in itertools.combinations(parts, 2)}
    return parts | pairs | (set() if counts else {n * a for n in range(2, FUSED + 1) for a in parts})
