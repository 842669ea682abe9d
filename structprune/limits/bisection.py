"""How deep to cut: the least depth that keeps every limit, found with few looks.

A depth is a whole number, such as the nodes removed along one ranking. Deeper cuts have less of everything,
nearly: a step that costs more nodes may be given up for cheaper ones one node later, and widths off the
runtime's blocks take longer than wider ones. Nothing here knows what is counted or measured.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

TOLERANCE = 0.02
"""How far a measured figure may lie above what is asked, as a fraction of it."""

EXPONENT = 0.85
"""A first guess at how time follows multiply-adds, time ~ work^0.85: memory traffic shrinks less fast."""


def first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the least depth in [low, high] at which something holds that holds at ``high`` and beyond.

    Example:
        >>> first(lambda depth: depth * depth >= 50, 0, 100)
        8
    """
    below, depth = low - 1, high
    while depth - below > 1:
        middle = (below + depth) // 2
        if holds(middle):
            depth = middle
        else:
            below = middle
    return depth


def least(kept: Callable[[int], bool], low: int, high: int, back: int = 0) -> int | None:
    """Return the least depth in [low, high] that keeps the limits, or None where the deepest doesn't.

    Args:
        kept: depth -> whether the limits are kept.
        low: the least depth allowed.
        high: the deepest.
        back: how far before the depth that bisection ends at to look for an earlier one, since values along
            a ranking fall only nearly.
    """
    if not kept(high):
        return None
    depth = first(kept, low, high)
    return next((d for d in range(max(low, depth - back), depth) if kept(d)), depth)


def least_near(kept: Callable[[int], bool], near: int, low: int, high: int) -> int | None:
    """Return what :func:`least` does, in few looks where a guess is good: strides that double from there.

    Example:
        >>> looks = []
        >>> least_near(lambda depth: bool(looks.append(depth)) or depth >= 500, 498, 0, 10_000), len(looks)
        (500, 4)
    """
    near, stride = min(max(near, low), high), 1
    if kept(near):
        while near > low and kept(below := max(low, near - stride)):
            near, stride = below, 2 * stride
        return near if near == low else first(kept, below + 1, near)
    while near < high:
        above = min(high, near + stride)
        if kept(above):
            return first(kept, near + 1, above)
        near, stride = above, 2 * stride
    return None


def knotted(work: Callable[[int], float], high: int, knots: int = 32) -> Callable[[int], float]:
    """Return a function like ``work`` that calls it at few depths, and draws lines between their logarithms.

    Args:
        work: depth -> a positive figure.
        high: the deepest.
        knots: depths at which it may be called, beside ``high``; each is, once, when it is first needed.

    Example:
        >>> round(knotted(lambda depth: 2.0**-depth, 64)(5), 9)
        0.03125
    """
    stride = max(1, high // knots)
    found = functools.cache(lambda depth: math.log(work(depth)))

    def between(depth: int) -> float:
        below = min(depth, high) // stride * stride
        above = min(below + stride, high)
        share = (depth - below) / (above - below) if above > below else 0.0
        # Nothing is called for a weight of zero.
        return math.exp(found(below) * (1 - share) + (found(above) * share if share else 0.0))

    return between


@dataclass(frozen=True)
class Try:
    """A depth that was measured.

    Attributes:
        depth: where.
        excess: what was measured there over what is allowed: 1 is what was asked for, less is deeper.
        sure: whether it was measured for longer.
    """

    depth: int
    excess: float
    sure: bool = False

    def kept(self, tolerance: float) -> bool:
        """Tell whether it is good enough; of a short look half of the tolerance is left for noise."""
        return self.excess <= 1 + (tolerance if self.sure else tolerance / 2)


@dataclass(frozen=True)
class Search:
    """What is searched, and when it is enough.

    Attributes:
        excess: (depth, sure) -> measured / allowed; dear and noisy.
        work: depth -> what time follows, such as multiply-adds; cheap, positive, falling.
        low: the least depth allowed.
        high: the deepest.
        settle: depth -> the least depth with the same cut, since cuts move in steps.
        tolerance: how far the excess may lie above 1, and below it where a step lies between.
        most: looks to take before the best so far must do.
        revised: depth that was looked at -> its excess by all that is known now, no new time taken; None
            where a look changes nothing for the others.
    """

    excess: Callable[[int, bool], float]
    work: Callable[[int], float]
    low: int
    high: int
    settle: Callable[[int], int] = field(default=lambda depth: depth)
    tolerance: float = TOLERANCE
    most: int = 12
    revised: Callable[[int], float] | None = None


Seen = dict[int, Try]


def meet(search: Search) -> tuple[Try | None, Seen]:
    """Find the least depth whose measured excess is 1 or less, within the tolerance.

    The deepest cut that is too slow and the least one that is fast enough close in on each other by regula
    falsi, log excess against log work, with a bisection every third time. What is settled on is measured
    again for longer, and counts as too slow while that says so.

    Returns:
        The depth that was settled on, or None where nothing is fast enough; and everything that was tried, as
        it stands by all that was measured.
    """
    seen: Seen = {}
    _look(search, seen, search.settle(search.low), sure=False)
    while True:
        _revise(search, seen)
        slow, fast = _bracket(search, seen)
        depth = _next(search, slow, fast, len(seen)) if len(seen) < search.most else None
        if depth is None and fast is None:
            depth = _last_chance(search, seen)
            if depth is None:
                return None, seen
            _look(search, seen, depth, sure=True)
        elif depth is not None:
            _look(search, seen, depth, sure=False)
        elif fast is not None and fast.sure:
            return fast, seen
        elif fast is not None:
            _look(search, seen, fast.depth, sure=True)


def _look(search: Search, seen: Seen, depth: int, sure: bool) -> None:
    seen[depth] = Try(depth, search.excess(depth, sure), sure)


def _revise(search: Search, seen: Seen) -> None:
    if search.revised is not None:
        seen.update({depth: replace(tried, excess=search.revised(depth)) for depth, tried in seen.items()})


def _last_chance(search: Search, seen: Seen) -> int | None:
    """Return what to be sure of before all is called too slow: of short looks more is asked."""
    near = (found for found in seen.values() if not found.sure and found.excess <= 1 + search.tolerance)
    deepest = search.settle(search.high)
    depth = min((found.depth for found in near), default=deepest)
    return None if depth in seen and seen[depth].sure else depth


def _bracket(search: Search, seen: Seen) -> tuple[Try | None, Try | None]:
    """Return the deepest try that is too slow, and the least deep one below it that isn't."""
    ordered = sorted(seen.values(), key=lambda found: found.depth)
    fast = next((found for found in ordered if found.kept(search.tolerance)), None)
    slow = [found for found in ordered if fast is None or found.depth < fast.depth]
    return (slow[-1] if slow else None), fast


def _next(search: Search, slow: Try | None, fast: Try | None, looks: int) -> int | None:
    """Return where to look next, or None where it is close enough or nothing lies between."""
    if slow is None or (fast is not None and fast.excess >= 1 - search.tolerance):
        return None
    above = slow.depth + 1
    end = search.settle(search.high) if fast is None else fast.depth - 1
    if above > end:
        return None
    wanted = _wanted_work(search, slow, fast, looks)
    guess = first(lambda depth: search.work(depth) <= wanted, above, end)
    for depth in (guess, first(lambda depth: search.settle(depth) > slow.depth, guess, end)):
        if slow.depth < (settled := search.settle(depth)) <= end:
            return settled
    return None


def _wanted_work(search: Search, slow: Try, fast: Try | None, looks: int) -> float:
    """Return how much work should be left: on the line through both ends, or along a power law."""
    work, aim = math.log(search.work(slow.depth)), math.log(1 - search.tolerance / 4)
    gap = math.log(slow.excess) - aim
    if fast is None:
        # Every look that is still too slow makes the next stride longer.
        return math.exp(work - max(gap, looks * search.tolerance) / EXPONENT)
    end = math.log(search.work(fast.depth))
    share = gap / max(math.log(slow.excess) - math.log(fast.excess), 1e-9)
    if looks % 3 == 0:
        share = 0.5
    return math.exp(work + min(max(share, 0.0), 1.0) * (end - work))
