"""The least depth that keeps every limit: counts first, then sizes of files, then what takes a clock."""

from __future__ import annotations

from collections.abc import Sequence

from structprune.limits.bisection import TOLERANCE, Search, first, knotted, least_near, meet
from structprune.limits.counting import Kept, counts_kept, least_counted, out_of_reach
from structprune.limits.explain import too_slow
from structprune.limits.measuring import MeasurementCache, over, size
from structprune.limits.parse import Limit

TIMED = ("latency", "speedup")
BYTES_PER_PARAMETER = 4
"""Networks are exported in float32."""


def least_depth(bench: MeasurementCache, limits: Sequence[Limit]) -> int:
    """Return the least depth that keeps every limit.

    Raises:
        TargetUnreachableError: the deepest cut doesn't, or none that was measured.
    """
    depth, kept = least_counted(bench.ranking, limits), counts_kept(bench.ranking, limits)
    for limit in limits:
        if limit.name == "disk":
            depth, kept = _on_disk(bench, limit, kept, depth)
    measured = [limit for limit in limits if limit.measured]
    return _measured(bench, measured, kept, depth) if measured else depth


def _on_disk(bench: MeasurementCache, limit: Limit, counts_kept: Kept, low: int) -> tuple[int, Kept]:
    """Find the least depth whose file is small enough, near where the parameters say that it is."""
    ranking, dense = bench.ranking, bench.once("disk", 0).pruned.median
    bound = limit.left(dense)

    def kept(depth: int) -> bool:
        return counts_kept(depth) and size(bench, depth) <= bound

    def guessed(depth: int) -> bool:
        gone = ranking.counts(0).params - ranking.counts(depth).params
        return dense - BYTES_PER_PARAMETER * gone / 1e6 <= bound

    if kept(low):
        return low, kept
    depth = least_near(kept, first(guessed, low, ranking.most), low, ranking.most)
    if depth is None:
        raise out_of_reach(ranking, limit, dense, size(bench, ranking.most))
    return depth, kept


def _measured(bench: MeasurementCache, limits: Sequence[Limit], kept: Kept, low: int) -> int:
    """Find the least depth whose measured time and memory are what is asked for, within 2 %."""
    ranking = bench.ranking
    timed = [limit for limit in limits if limit.name in TIMED]

    def looked(depth: int, sure: bool) -> float:
        if kept(depth):
            bench.say(f"measuring nodes {depth / ranking.groups.nodes:.3f}")
            if timed:
                bench.measure("batch_time", depth, sure)
        return excess(depth)

    def excess(depth: int) -> float:
        if not kept(depth):  # a later cut may need a little more than an earlier one
            return 1 + 2 * TOLERANCE
        found = max((over(bench, limit, depth) for limit in timed), default=0.0)
        # Memory takes processes of its own, which what is too slow anyway does not need.
        rest = limits if found <= 1 + TOLERANCE else timed
        return max(over(bench, limit, depth) for limit in rest)

    def work(depth: int) -> float:
        counts = ranking.counts(depth)
        return float(counts.flops or counts.params or 1)

    model = knotted(work, ranking.most)
    search = Search(looked, model, low, ranking.most, ranking.settle, revised=excess)
    found, seen = meet(search)
    if found is None:
        measured = [tried for tried in seen.values() if kept(tried.depth)]
        raise too_slow(bench, limits, min(measured, key=lambda tried: tried.excess).depth)
    return found.depth
