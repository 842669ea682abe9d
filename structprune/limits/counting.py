"""What is counted along a ranking, against what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from structprune.errors import TargetUnreachableError, UsageError
from structprune.limits.bisection import least
from structprune.limits.parse import QUANTITIES, Limit, nodes_of
from structprune.limits.ranking import Ranking
from structprune.pruning.budget import in_the_way, select

Kept = Callable[[int], bool]
"""Whether the cut at a depth keeps what it must."""

COUNTED = ("weights", "params", "flops")

UNEVEN = 2
"""How many of the largest steps before the cut that bisection finds an earlier one is looked for.

To hit a number of nodes, a large step is given up for smaller ones of other layers, so that what is left does
not fall with every node; it falls again as soon as the large step fits.
"""

FEW = 256
"""Nodes up to which every earlier cut is looked at."""


def counts_kept(ranking: Ranking, limits: Sequence[Limit]) -> Kept:
    """Return what tells whether the cut at a depth keeps every counted limit."""
    counted = [limit for limit in limits if limit.name in COUNTED]
    return lambda depth: all(_kept(ranking, limit, depth) for limit in counted)


def least_counted(ranking: Ranking, limits: Sequence[Limit]) -> int:
    """Return the least depth that removes the nodes asked for and keeps every counted limit.

    Raises:
        TargetUnreachableError: the deepest cut doesn't.
    """
    low, back = round((nodes_of(limits) or 0.0) * ranking.groups.nodes), 0
    if any(limit.name in COUNTED for limit in limits):
        back = ranking.most if ranking.most <= FEW else UNEVEN * ranking.largest_step
    depth = least(counts_kept(ranking, limits), low, ranking.most, back)
    if depth is None:
        check_counted(ranking, limits)  # says which, and what can be asked for
    assert depth is not None
    return depth


def check_counted(ranking: Ranking, limits: Sequence[Limit]) -> None:
    """Refuse before scoring what no scores can change: widths at the deepest cut are the same for all.

    Raises:
        TargetUnreachableError: with what can be asked for instead.
    """
    select(ranking.scores, ranking.groups, replace(ranking.budget, remove=nodes_of(limits) or 0.0))
    for limit in limits:
        if limit.name in COUNTED and not _kept(ranking, limit, ranking.most):
            raise out_of_reach(ranking, limit, *(count(ranking, limit.name, d) for d in (0, ranking.most)))


def _kept(ranking: Ranking, limit: Limit, depth: int) -> bool:
    dense, now = (count(ranking, limit.name, d) for d in (0, depth))
    return now <= limit.left(dense)


def count(ranking: Ranking, name: str, depth: int) -> float:
    """Return how many of something the network at a depth has.

    Raises:
        UsageError: its multiply-adds can't be counted.
    """
    found = getattr(ranking.counts(depth), name)
    if found is None:
        raise UsageError(f"{name}: multiply-adds of this network can't be counted; limit its params instead")
    return float(found)


def out_of_reach(ranking: Ranking, limit: Limit, dense: float, least_left: float) -> TargetUnreachableError:
    """Say what can be asked for instead, in the terms in which it was asked."""
    if limit.form == "removed":
        reach = f"0 to {int(1000 * (1 - least_left / dense)) / 1000:.3f} removed"
    else:
        reach = f"{_figure(least_left, QUANTITIES[limit.name].unit)} or more"
    return TargetUnreachableError(
        f"{limit.name} {limit.written} can't be reached: this network allows {reach}"
        f"{in_the_way(ranking.groups, ranking.budget)}"
    )


def _figure(value: float, unit: str) -> str:
    """Round up to four digits, so that what is named can itself be asked for.

    Example:
        >>> _figure(2_345_678, ""), _figure(1.23456, "MB")
        ('2.346M', '1.235MB')
    """
    scale, letter = next(((s, x) for s, x in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= s), (1.0, ""))
    if unit:
        scale, letter = 1.0, unit
    shown = value / scale
    digits = max(0, 4 - len(str(int(shown))))
    rounded = -(-shown * 10**digits // 1) / 10**digits
    return f"{rounded:.{digits}f}{letter}"
