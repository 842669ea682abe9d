"""What was reached of each limit, for the report; or why it can't be, and what can."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from structprune.errors import TargetUnreachableError
from structprune.limits.bisection import TOLERANCE
from structprune.limits.counting import COUNTED, count
from structprune.limits.measuring import MeasurementCache, over, reading, size
from structprune.limits.parse import QUANTITIES, Limit
from structprune.pruning.budget import in_the_way
from structprune.report.data import LimitResult


def too_slow(bench: MeasurementCache, limits: Sequence[Limit], depth: int) -> TargetUnreachableError:
    """Say how close the best cut that was measured came."""
    ranking = bench.ranking
    missed = [limit for limit in limits if over(bench, limit, depth) > 1 + TOLERANCE]
    return TargetUnreachableError(
        f"{', '.join(f'{limit.name} {limit.written}' for limit in missed)} can't be reached: of the cuts "
        f"that were measured the best removes {depth / ranking.groups.nodes:.3f} of the nodes and has "
        f"{'; '.join(_has(bench, limit, depth) for limit in missed)}"
        f"{in_the_way(ranking.groups, ranking.budget)}"
    )


def _has(bench: MeasurementCache, limit: Limit, depth: int) -> str:
    dense, reached = reading(bench, limit, depth)
    if limit.form == "factor":
        return f"a speed-up of {reached:.3g}x, so that 1x to {reached:.3g}x can be asked for"
    unit = QUANTITIES[limit.name].unit
    can = f"so that {reached:.3g}{unit} or more can be asked for"
    return f"{reached:.3g} {unit} where the dense network has {dense:.3g} {unit}, {can}"


def met(bench: MeasurementCache, limit: Limit, depth: int) -> LimitResult:
    """Return what the network at a depth has of what is limited."""
    bound, reached, how = _METERS.get(limit.name, _met_measured)(bench, limit, depth)
    return LimitResult(limit.name, limit.words, bound, reached, QUANTITIES[limit.name].unit, how)


def _met_nodes(bench: MeasurementCache, limit: Limit, depth: int) -> tuple[float, float, str]:
    return limit.value, bench.ranking.plan(depth).reached, "counted, fraction removed"


def _met_counted(bench: MeasurementCache, limit: Limit, depth: int) -> tuple[float, float, str]:
    dense, now = (count(bench.ranking, limit.name, d) for d in (0, depth))
    return limit.left(dense), now, f"counted, dense {dense:,.0f}"


def _met_disk(bench: MeasurementCache, limit: Limit, depth: int) -> tuple[float, float, str]:
    dense = bench.once("disk", 0).pruned.median
    return limit.left(dense), size(bench, depth), f"bytes of the ONNX file, dense {dense:.4g} MB"


def _met_measured(bench: MeasurementCache, limit: Limit, depth: int) -> tuple[float, float, str]:
    dense, reached = reading(bench, limit, depth)
    row = bench.once("memory" if limit.name == "memory" else "batch_time", depth)
    looks = sum(name == row.name for name, _ in bench.taken)
    words = [f"{row.how}", f"batch {row.batch}"]
    if row.ratio is not None:
        words.append(f"{row.ratio.value:.3g}x faster than dense ({row.ratio.low:.3g}-{row.ratio.high:.3g})")
    if limit.form != "factor":
        words.append(f"dense {dense:.4g} {QUANTITIES[limit.name].unit}{_readings(bench, limit)}")
    words.append(f"{looks} networks measured to find it")
    bound = limit.value if limit.form == "factor" else limit.left(dense)
    return bound, reached, "; ".join(words)


def _readings(bench: MeasurementCache, limit: Limit) -> str:
    """Say how far the machine moved while the search went on."""
    if limit.name != "latency":
        return ""
    taken = bench.dense_ms
    return (
        f" (median of {len(taken)} readings, {min(taken):.4g} to {max(taken):.4g} ms), "
        "and reached is that over the speed-up"
    )


_METERS: dict[str, Callable[[MeasurementCache, Limit, int], tuple[float, float, str]]] = {
    "nodes": _met_nodes,
    **dict.fromkeys(COUNTED, _met_counted),
    "disk": _met_disk,
}
