"""From limits in the units that people pay in to the least cut along one ranking that keeps them all.

What is counted is met exactly. What is measured (time, memory) is taken from exported files beside the dense
network's, and met within 2 %: few exports, each chosen by what was measured before.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from structprune.budget import Plan, in_the_way, select
from structprune.channels import ChannelGroups
from structprune.choose import order
from structprune.delivery import Run
from structprune.errors import TargetUnreachableError, UsageError
from structprune.limits import QUANTITIES, Limit, nodes_asked
from structprune.ranking import Ranking
from structprune.report import Measurement, MeasurementName, Met
from structprune.request import Tools
from structprune.scores import Scores
from structprune.search import TOLERANCE, Search, first, least, least_near, meet

COUNTED = ("weights", "params", "flops")
TIMED = ("latency", "speedup")
SECONDS = {False: 0.8, True: 2.0}
"""Time that is spent on each of two networks, for a look and for being sure."""

UNEVEN = 2
"""How many of the largest steps before the cut that bisection finds an earlier one is looked for.

To hit a number of nodes, a large step is given up for smaller ones of other layers, so that what is left does
not fall with every node; it falls again as soon as the large step fits.
"""

FEW = 256
"""Nodes up to which every earlier cut is looked at."""

BYTES_PER_PARAMETER = 4
"""Networks are exported in float32."""


def within_limits(run: Run, groups: ChannelGroups) -> tuple[Plan, Scores, tuple[Met, ...]]:
    """Score once and find the least cut that keeps every limit.

    Args:
        run: with a request that has limits.
        groups: the groups of its network.

    Returns:
        The plan, the scores, and what was reached of each limit.

    Raises:
        TargetUnreachableError: the deepest cut that is allowed doesn't keep them.
        UsageError: a limit can't be told from the tools or steps at hand.
    """
    request = run.request
    _check(run)
    _check_counted(_ranking(run, groups, _flat(groups)), request.limits)
    with run.clock.step("score", "scoring"):
        scores = order(request.model, groups, request.samples, request.scoring)
    words = "looking for the least cut that keeps every limit"
    with run.clock.step("search", words), TemporaryDirectory(prefix="structprune-") as scratch:
        bench = Bench(run, _ranking(run, groups, scores), Path(scratch))
        depth = _depth(bench, request.limits)
        met = tuple(_met(bench, limit, depth) for limit in request.limits)
        plan = bench.ranking.plan(depth)
    remove = max(nodes_asked(request.limits), plan.reached)
    return replace(plan, budget=replace(request.budget, remove=remove)), scores, met


def _check(run: Run) -> None:
    exported = [limit.name for limit in run.request.limits if limit.name in ("disk", "memory", *TIMED)]
    if run.request.scoring.steps > 1:
        raise UsageError("limits are met along one ranking, and --steps takes several; give --nodes alone")
    if run.tools is None and exported:
        raise UsageError(f"{', '.join(exported)}: nothing is there that exports and measures")


def _flat(groups: ChannelGroups) -> Scores:
    return Scores({group.name: torch.zeros(group.size) for group in groups}, "none")


def _ranking(run: Run, groups: ChannelGroups, scores: Scores) -> Ranking:
    request = run.request
    count = run.tools.count_flops if run.tools else None
    return Ranking(request.model, groups, scores.values, request.budget, request.example, count)


# ---- what is counted


def _check_counted(ranking: Ranking, limits: Sequence[Limit]) -> None:
    """Refuse before scoring what no scores can change: widths at the deepest cut are the same for all."""
    select(ranking.scores, ranking.groups, replace(ranking.budget, remove=nodes_asked(tuple(limits))))
    for limit in limits:
        if limit.name in COUNTED and not _counted_kept(ranking, limit, ranking.most):
            raise _out_of_reach(ranking, limit, *(_count(ranking, limit.name, d) for d in (0, ranking.most)))


def _counted_kept(ranking: Ranking, limit: Limit, depth: int) -> bool:
    dense, now = (_count(ranking, limit.name, d) for d in (0, depth))
    return now <= limit.left(dense)


def _count(ranking: Ranking, name: str, depth: int) -> float:
    found = getattr(ranking.counts(depth), name)
    if found is None:
        raise UsageError(f"{name}: multiply-adds of this network can't be counted; limit its params instead")
    return float(found)


def _out_of_reach(ranking: Ranking, limit: Limit, dense: float, least_left: float) -> TargetUnreachableError:
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


# ---- what takes a file


@dataclass(frozen=True)
class Bench:
    """Files of the dense network and of one cut, and what was measured on them.

    Attributes:
        run: whose tools export and measure.
        ranking: what is cut.
        folder: an empty folder that goes afterwards.
        taken: (quantity, depth) -> the last measurement.
    """

    run: Run
    ranking: Ranking
    folder: Path
    taken: dict[tuple[MeasurementName, int], Measurement] = field(default_factory=dict)

    @property
    def tools(self) -> Tools:
        """What exports and measures."""
        assert self.run.tools is not None
        return self.run.tools

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs as the files take them."""
        return tuple(x.cpu().float() if x.is_floating_point() else x.cpu() for x in self.run.request.example)

    def file(self, depth: int) -> Path:
        """Return the ONNX file of the network at a depth; beside the dense one only the last is kept."""
        path = self.folder / f"{depth}.onnx"
        if not path.exists():
            for old in self.folder.iterdir():
                if not old.name.startswith("0.onnx"):
                    old.unlink()
            network = self.ranking.network(depth) if depth else copy.deepcopy(self.run.request.model)
            self.tools.export(network.cpu().float(), self.example, path)
        return path

    def measure(self, name: MeasurementName, depth: int, sure: bool = False) -> Measurement:
        """Measure the network at a depth, where time is taken in turn with the dense one."""
        depths = (0, depth) if name == "batch_time" else (depth,)
        files = [self.file(each) for each in depths]
        *_, self.taken[name, depth] = self.tools.compare(name, files, self.example, SECONDS[sure])
        return self.taken[name, depth]

    def once(self, name: MeasurementName, depth: int) -> Measurement:
        """Return what was measured last, or measure now."""
        return self.taken.get((name, depth)) or self.measure(name, depth)


def _depth(bench: Bench, limits: Sequence[Limit]) -> int:
    """Return the least depth that keeps every limit: counts first, then sizes of files, then measurements."""
    ranking = bench.ranking
    low, high = round(nodes_asked(tuple(limits)) * ranking.groups.nodes), ranking.most
    counted = [limit for limit in limits if limit.name in COUNTED]

    def counts_kept(depth: int) -> bool:
        return all(_counted_kept(ranking, limit, depth) for limit in counted)

    kept: Kept = counts_kept
    depth = least(kept, low, high, back=_back(ranking) if counted else 0)
    assert depth is not None  # _check_counted saw that the deepest cut keeps them
    for limit in limits:
        if limit.name == "disk":
            depth, kept = _on_disk(bench, limit, kept, depth)
    measured = [limit for limit in limits if limit.measured]
    return _measured(bench, measured, kept, depth) if measured else depth


def _back(ranking: Ranking) -> int:
    most = ranking.most
    return most if most <= FEW else UNEVEN * ranking.largest_step


Kept = Callable[[int], bool]


def _on_disk(bench: Bench, limit: Limit, counts_kept: Kept, low: int) -> tuple[int, Kept]:
    """Find the least depth whose file is small enough, near where the parameters say that it is."""
    ranking, dense = bench.ranking, bench.once("disk", 0).pruned.median
    bound = limit.left(dense)

    def kept(depth: int) -> bool:
        return counts_kept(depth) and _size(bench, depth) <= bound

    def guessed(depth: int) -> bool:
        gone = ranking.counts(0).params - ranking.counts(depth).params
        return dense - BYTES_PER_PARAMETER * gone / 1e6 <= bound

    if kept(low):
        return low, kept
    depth = least_near(kept, first(guessed, low, ranking.most), low, ranking.most)
    if depth is None:
        raise _out_of_reach(ranking, limit, dense, _size(bench, ranking.most))
    return depth, kept


def _size(bench: Bench, depth: int) -> float:
    # Cuts move in steps, and each is exported once.
    return bench.once("disk", bench.ranking.settle(depth)).pruned.median


# ---- what takes a clock


def _measured(bench: Bench, limits: Sequence[Limit], kept: Kept, low: int) -> int:
    """Find the least depth whose measured time and memory are what is asked for, within 2 %."""
    ranking = bench.ranking

    def excess(depth: int, sure: bool) -> float:
        if not kept(depth):  # a later cut may need a little more than an earlier one
            return 1 + 2 * TOLERANCE
        bench.run.say(f"measuring nodes {depth / ranking.groups.nodes:.3f}")
        timed = [limit for limit in limits if limit.name in TIMED]
        if timed:
            bench.measure("batch_time", depth, sure)
        found = max((_over(bench, limit, depth) for limit in timed), default=0.0)
        # Memory takes processes of its own, which what is too slow anyway does not need.
        rest = limits if found <= 1 + TOLERANCE else timed
        return max(_over(bench, limit, depth) for limit in rest)

    def work(depth: int) -> float:
        counts = ranking.counts(depth)
        return float(counts.flops or counts.params or 1)

    found, seen = meet(Search(excess, work, low, ranking.most, ranking.settle))
    if found is None:
        fastest = min(seen.values(), key=lambda tried: tried.excess).depth
        raise _too_slow(bench, limits, fastest)
    return found.depth


def _over(bench: Bench, limit: Limit, depth: int) -> float:
    """Return what was measured over what is allowed."""
    dense, reached = _reading(bench, limit, depth)
    if limit.form == "factor":
        return limit.value / reached
    return reached / limit.left(dense)


def _reading(bench: Bench, limit: Limit, depth: int) -> tuple[float, float]:
    """Return the dense network's figure and that of the network at a depth; of a speed-up, 1 and that."""
    if limit.name == "memory":
        return bench.once("memory", 0).pruned.median, bench.once("memory", depth).pruned.median
    row = bench.once("batch_time", depth)
    if limit.form == "factor":
        return 1.0, row.ratio.value if row.ratio else row.dense.median / row.pruned.median
    return row.dense.median, row.pruned.median


def _too_slow(bench: Bench, limits: Sequence[Limit], depth: int) -> TargetUnreachableError:
    ranking = bench.ranking
    missed = [limit for limit in limits if _over(bench, limit, depth) > 1 + TOLERANCE]
    return TargetUnreachableError(
        f"{', '.join(f'{limit.name} {limit.written}' for limit in missed)} can't be reached: of the cuts "
        f"that were measured the best removes {depth / ranking.groups.nodes:.3f} of the nodes and has "
        f"{'; '.join(_has(bench, limit, depth) for limit in missed)}"
        f"{in_the_way(ranking.groups, ranking.budget)}"
    )


def _has(bench: Bench, limit: Limit, depth: int) -> str:
    dense, reached = _reading(bench, limit, depth)
    if limit.form == "factor":
        return f"a speed-up of {reached:.3g}x, so that 1x to {reached:.3g}x can be asked for"
    unit = QUANTITIES[limit.name].unit
    can = f"so that {reached:.3g}{unit} or more can be asked for"
    return f"{reached:.3g} {unit} where the dense network has {dense:.3g} {unit}, {can}"


# ---- the report


def _met(bench: Bench, limit: Limit, depth: int) -> Met:
    bound, reached, how = _METERS.get(limit.name, _met_measured)(bench, limit, depth)
    return Met(limit.name, limit.words, bound, reached, QUANTITIES[limit.name].unit, how)


def _met_nodes(bench: Bench, limit: Limit, depth: int) -> tuple[float, float, str]:
    return limit.value, bench.ranking.plan(depth).reached, "counted, fraction removed"


def _met_counted(bench: Bench, limit: Limit, depth: int) -> tuple[float, float, str]:
    dense, now = (_count(bench.ranking, limit.name, d) for d in (0, depth))
    return limit.left(dense), now, f"counted, dense {dense:,.0f}"


def _met_disk(bench: Bench, limit: Limit, depth: int) -> tuple[float, float, str]:
    dense = bench.once("disk", 0).pruned.median
    return limit.left(dense), _size(bench, depth), f"bytes of the ONNX file, dense {dense:.4g} MB"


def _met_measured(bench: Bench, limit: Limit, depth: int) -> tuple[float, float, str]:
    dense, reached = _reading(bench, limit, depth)
    row = bench.once("memory" if limit.name == "memory" else "batch_time", depth)
    looks = sum(name == row.name for name, _ in bench.taken)
    words = [f"{row.how}", f"batch {row.batch}"]
    if row.ratio is not None:
        words.append(f"{row.ratio.value:.3g}x faster than dense ({row.ratio.low:.3g}-{row.ratio.high:.3g})")
    else:
        words.append(f"dense {dense:.4g} {QUANTITIES[limit.name].unit}")
    words.append(f"{looks} networks measured to find it")
    bound = limit.value if limit.form == "factor" else limit.left(dense)
    return bound, reached, "; ".join(words)


_METERS: dict[str, Callable[[Bench, Limit, int], tuple[float, float, str]]] = {
    "nodes": _met_nodes,
    **dict.fromkeys(COUNTED, _met_counted),
    "disk": _met_disk,
}
