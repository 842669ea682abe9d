"""What a sweep of a budget found, as data: ``pareto.json`` is this and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from structprune.report.data import Ratio

SCHEMA = 1


@dataclass(frozen=True)
class Point:
    """One cut along the ranking.

    Attributes:
        nodes: the fraction of nodes removed.
        parameters: entries of every parameter that is left.
        flops: multiply-adds of one input, or None where they can't be counted.
        latency: median time of a batch, in ms.
        fast: the 5th percentile over all runs, in ms.
        slow: the 95th.
        ratio: the dense network's time over this one's; None for the dense network itself.
        kept_score: the kept channels' ranks over those of all.
        accuracy: top-1 after the cut and its mending, without training, in [0, 1], or None without data.
        best: whether no other point is as fast and as good, and better in one of the two.
    """

    nodes: float
    parameters: int
    flops: int | None
    latency: float
    fast: float
    slow: float
    ratio: Ratio | None
    kept_score: float
    accuracy: float | None = None
    best: bool = False

    @property
    def quality(self) -> float:
        """Accuracy, or without data the kept score."""
        return self.kept_score if self.accuracy is None else self.accuracy


@dataclass(frozen=True)
class ParetoSweep:
    """A sweep.

    Attributes:
        model: what was swept, as the user named it, without folders.
        method: the score that ranks.
        by: what was swept in even steps: ``nodes``, ``weights``, ``params`` or ``flops``.
        align: widths are multiples of it; ``auto``: those that a device likes.
        batch: inputs per run.
        threads: CPU threads inside an operator.
        how: how times were taken, in words.
        points: from the dense network on, deeper and deeper.
        data: where the scoring inputs came from.
        accuracy_how: which images accuracy was taken on, and how cuts were mended; None without data.
        notes: what a reader must know.
        seconds: wall time by step.
        software: name -> version.
        hardware: name -> value.
        schema: version of this form.
    """

    model: str
    method: str
    by: str
    align: int | str
    batch: int | None
    threads: int | None
    how: str
    points: tuple[Point, ...]
    data: str
    accuracy_how: str | None = None
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


def marked(points: Sequence[Point]) -> tuple[Point, ...]:
    """Mark the points that no other point dominates: none is as fast and as good, and better in one."""

    def dominates(a: Point, b: Point) -> bool:
        as_good = a.latency <= b.latency and a.quality >= b.quality
        return as_good and (a.latency < b.latency or a.quality > b.quality)

    return tuple(replace(b, best=not any(dominates(a, b) for a in points)) for b in points)


def to_json(front: ParetoSweep) -> str:
    """Write a sweep as one JSON document, keys in the order of :class:`ParetoSweep`."""
    return json.dumps(asdict(front), indent=2, allow_nan=False) + "\n"
