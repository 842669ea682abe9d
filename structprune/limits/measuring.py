"""Files of networks along a ranking, and what is measured on them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from torch import Tensor

from structprune.limits.parse import Limit
from structprune.limits.ranking import Ranking
from structprune.report.data import Measurement, MeasurementName
from structprune.report.protocols import Say, Tools

SECONDS = {False: 0.8, True: 1.5}
"""Time that is spent on each of two networks when their files are opened, for a look and for being sure."""

OPENINGS = {False: 1, True: 3}
"""How often files are opened: where a session's buffers lie stays the same while it lives, and moves times by
a few percent. Of several the median counts."""


@dataclass(frozen=True)
class MeasurementCache:
    """Files of the dense network and of one cut, and what was measured on them.

    Attributes:
        ranking: what is cut.
        exporters: what exports and measures, or None where nothing has to be.
        say: told what happens next.
        folder: an empty folder that goes afterwards.
        taken: (quantity, depth) -> the last measurement.
        dense_ms: what the dense network took, every time that it was timed.
    """

    ranking: Ranking
    exporters: Tools | None
    say: Say
    folder: Path
    taken: dict[tuple[MeasurementName, int], Measurement] = field(default_factory=dict)
    dense_ms: list[float] = field(default_factory=list)

    @property
    def tools(self) -> Tools:
        """What exports and measures."""
        assert self.exporters is not None
        return self.exporters

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs as the files take them."""
        return tuple(x.cpu().float() if x.is_floating_point() else x.cpu() for x in self.ranking.example)

    def file(self, depth: int) -> Path:
        """Return the ONNX file of the network at a depth; beside the dense one only the last is kept."""
        path = self.folder / f"{depth}.onnx"
        if not path.exists():
            for old in self.folder.iterdir():
                if not old.name.startswith("0.onnx"):
                    old.unlink()
            network = self.ranking.network(depth) if depth else copy.deepcopy(self.ranking.model)
            self.tools.export(network.cpu().float(), self.example, path)
        return path

    def measure(self, name: MeasurementName, depth: int, sure: bool = False) -> Measurement:
        """Measure the network at a depth, where time is taken in turn with the dense one."""
        depths = (0, depth) if name == "batch_time" else (depth,)
        files = [self.file(each) for each in depths]
        openings = OPENINGS[sure] if name == "batch_time" else 1
        found = [self.tools.compare(name, files, self.example, SECONDS[sure])[-1] for _ in range(openings)]
        if name == "batch_time":
            self.dense_ms.extend(row.dense.median for row in found)
        self.taken[name, depth] = sorted(found, key=_speedup)[openings // 2]
        return self.taken[name, depth]

    def once(self, name: MeasurementName, depth: int) -> Measurement:
        """Return what was measured last, or measure now."""
        return self.taken.get((name, depth)) or self.measure(name, depth)


def _speedup(taken: Measurement) -> float:
    return taken.ratio.value if taken.ratio else taken.dense.median / taken.pruned.median


def size(bench: MeasurementCache, depth: int) -> float:
    """Return the size of the ONNX file at a depth, in MB."""
    # Cuts move in steps, and each is exported once.
    return bench.once("disk", bench.ranking.settle(depth)).pruned.median


def reading(bench: MeasurementCache, limit: Limit, depth: int) -> tuple[float, float]:
    """Return the dense network's figure and that of the network at a depth; of a speed-up, 1 and that.

    Times on a shared machine move by several percent within seconds, those of both networks alike: of two
    networks timed in turn the ratio stays. So the dense network takes the median of all its readings, taken
    over the whole search, and another network that over its ratio.
    """
    if limit.name == "memory":
        return bench.once("memory", 0).pruned.median, bench.once("memory", depth).pruned.median
    row = bench.once("batch_time", depth)
    if limit.form == "factor":
        return 1.0, _speedup(row)
    dense = median(bench.dense_ms)
    return dense, dense / _speedup(row)


def over(bench: MeasurementCache, limit: Limit, depth: int) -> float:
    """Return what was measured over what is allowed."""
    dense, reached = reading(bench, limit, depth)
    if limit.form == "factor":
        return limit.value / reached
    return reached / limit.left(dense)
