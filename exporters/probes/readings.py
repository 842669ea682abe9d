"""What a probe found out about several networks at once, and its comparison with the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exporters.probes.statistics import bootstrap_ratio, series, verdict
from structprune.report.data import Measurement, MeasurementName, Runtime

Figures = Mapping[str, float | str]


@dataclass(frozen=True)
class Reading:
    """Readings of one network.

    Attributes:
        samples: in the order in which they were taken.
        extra: figures that belong to this network alone.
    """

    samples: tuple[float, ...]
    extra: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class Readings:
    """Readings of one quantity on several networks, taken side by side under one protocol.

    Attributes:
        name: what was measured.
        runtime: what ran the networks.
        batch: inputs per run, or None.
        threads: CPU threads, or None.
        unit: of every sample.
        how: the protocol in words.
        networks: one reading a network, equally many samples each; the others are held against the first.
        extra: figures that belong to all of them.
    """

    name: MeasurementName
    runtime: Runtime
    batch: int | None
    threads: int | None
    unit: str
    how: str
    networks: tuple[Reading, ...]
    extra: Figures = field(default_factory=dict)


def against_first(readings: Readings, index: int) -> Measurement:
    """Hold network ``index`` against the first.

    The first against itself is its reading on its own, with no ratio: nothing was compared.
    """
    dense, pruned = readings.networks[0], readings.networks[index]
    ratio = bootstrap_ratio(dense.samples, pruned.samples) if index else None
    return Measurement(
        name=readings.name,
        runtime=readings.runtime,
        batch=readings.batch,
        threads=readings.threads,
        unit=readings.unit,
        dense=series(dense.samples),
        pruned=series(pruned.samples),
        ratio=ratio,
        how=readings.how,
        verdict=verdict(ratio, readings.name),
        extra={**readings.extra, **_prefixed("dense", dense.extra), **_prefixed("pruned", pruned.extra)},
    )


def _prefixed(prefix: str, figures: Figures) -> dict[str, float | str]:
    return {f"{prefix}_{key}": value for key, value in figures.items()}
