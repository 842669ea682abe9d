"""codecarbon, kept to itself: what a stretch of work takes in energy and carbon."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from exporters.runtime.quiet import quiet
from structprune.errors import InputError, UsageError

JOULES_PER_KWH = 3.6e6
GRAMS_PER_KG = 1e3
NO_FIGURES = "codecarbon gave no energy for a stretch of work; it can't measure on this machine"


@dataclass(frozen=True)
class Spent:
    """What a stretch of work took.

    Attributes:
        joules: energy.
        grams: carbon, in gCO2e.
        sensed: joules of it that sensors measured, those of an idle machine included.
        seconds: how long it lasted.
    """

    joules: float
    grams: float
    sensed: float = 0.0
    seconds: float = 0.0

    def above(self, idle_watts: float) -> Spent:
        """Return what was spent beyond what the idle machine draws, with the carbon in proportion.

        Raises:
            InputError: nothing is left: the sensors can't tell the work from an idle machine.

        Example:
            >>> Spent(30.0, 3.0, sensed=25.0, seconds=2.0).above(5.0)
            Spent(joules=20.0, grams=2.0, sensed=15.0, seconds=2.0)
        """
        idle = idle_watts * self.seconds
        if idle >= self.joules:
            raise InputError(
                f"{self.joules:.3g} J in {self.seconds:.1f} s are no more than the idle machine draws "
                f"({idle_watts:.3g} W); take energy over longer or on a machine that nobody else uses"
            )
        left = self.joules - idle
        return Spent(left, self.grams * left / self.joules, self.sensed - idle, self.seconds)


class Tracker:
    """codecarbon's offline tracker: no file, no log, no network access, whatever its configuration says.

    Args:
        country: three-letter ISO code of the country whose electricity is used. None takes what codecarbon is
            configured with, else the world's average: where a machine stands can't be known offline.

    Attributes:
        source: what is measured and what is estimated, in words.
        basis: device -> ``measured``, ``measured in part`` or ``estimated``: work there.
        senses: whether any part of the machine has a sensor.

    Raises:
        UsageError: codecarbon has no data on the country.
    """

    def __init__(self, country: str | None = None) -> None:
        self._sensors = cpu, gpu = _sensors()
        self.source, self.senses = _source(cpu, gpu), cpu or gpu
        self.basis = {
            "cpu": "measured" if cpu else "estimated",
            "cuda": "estimated" if not gpu else "measured" if cpu else "measured in part",
        }
        with quiet():
            self._tracker = _offline_tracker(country and _known(country), machine=cpu)
        # codecarbon looks for its hardware when the first task starts, for a second that should not count.
        self._start()
        self._stop()

    @contextmanager
    def spending(self) -> Iterator[list[Spent]]:
        """Take what the body spends; it is appended to the list when the body ends.

        Raises:
            InputError: codecarbon gives no figures.
        """
        spent: list[Spent] = []
        begun = self.begin()
        try:
            yield spent
        finally:
            found = self.end(begun)
        if found is None:
            raise InputError(NO_FIGURES)
        spent.append(found)

    def begin(self) -> float:
        """Begin a stretch of work; what comes back is for :meth:`end`."""
        self._start()
        return time.perf_counter()

    def end(self, begun: float) -> Spent | None:
        """Return what was spent since a stretch of work began, or None where codecarbon can't tell."""
        seconds = time.perf_counter() - begun
        data = self._stop()
        if data is None or data.energy_consumed <= 0:
            return None
        parts = zip(self._sensors, (data.cpu_energy, data.gpu_energy), strict=True)
        sensed = sum(energy for there, energy in parts if there)
        joules, grams = data.energy_consumed * JOULES_PER_KWH, data.emissions * GRAMS_PER_KG
        return Spent(joules, grams, sensed * JOULES_PER_KWH, seconds)

    def idle_watts(self, seconds: float) -> float:
        """Return what the sensors read while this process sleeps; 0 where there are none.

        An estimate follows this process's own CPU time, so it holds nothing of an idle machine to take off.
        """
        if not self.senses:
            return 0.0
        with self.spending() as spent:
            time.sleep(seconds)
        return spent[0].sensed / spent[0].seconds

    def idle_words(self, idle_watts: float) -> str:
        """Say what became of the idle draw."""
        if self.senses:
            return f"{idle_watts:.3g} W of the idle machine subtracted"
        return "without a sensor the idle machine's draw can't be told apart, and nothing is subtracted"

    def _start(self) -> None:
        with quiet():
            self._tracker.start_task()

    def _stop(self) -> Any:
        with quiet():
            return self._tracker.stop_task()

    def how(self, spent: Sequence[Spent]) -> str:
        """Say where figures come from: sensor or estimate, country and intensity."""
        intensity = sum(each.grams for each in spent) / sum(each.joules for each in spent) * JOULES_PER_KWH
        place = self._tracker._get_geo_metadata().country_iso_code or "the world's average"
        return f"codecarbon, offline; {self.source}; electricity of {place}, {intensity:.0f} gCO2e/kWh"


def _sensors() -> tuple[bool, bool]:
    """Return whether codecarbon finds an energy counter of the CPU (RAPL) and one of a GPU (NVML)."""
    from codecarbon.core import cpu, gpu

    with quiet():
        return bool(cpu.is_rapl_available()), bool(gpu.is_nvidia_system())


def _source(cpu: bool, gpu: bool) -> str:
    processor = "CPU measured (RAPL)" if cpu else "CPU estimated from this process's CPU time (no sensor)"
    return f"{processor}, GPU measured (NVML)" if gpu else processor


def _offline_tracker(country: str | None, *, machine: bool) -> Any:
    """Build the tracker.

    A counter reads the whole machine. An estimate follows the load: the whole machine's would charge us for
    our neighbours (22-28 J for the same second of work, as they came and went; our own: 14.1-14.3 J).
    """
    from codecarbon import OfflineEmissionsTracker

    # What is left out is taken from codecarbon's configuration, which may name a server or a token.
    place = {} if country is None else {"country_iso_code": country}
    return OfflineEmissionsTracker(
        **place,
        output_methods=[],
        emissions_endpoint=False,
        electricitymaps_api_token="",
        allow_multiple_runs=True,
        measure_power_secs=1,
        tracking_mode="machine" if machine else "process",
        log_level="critical",
    )


def _known(country: str) -> str:
    import codecarbon.input

    source: Any = codecarbon.input.DataSource
    if country.upper() not in source().get_global_energy_mix_data():
        raise UsageError(
            f"country {country!r} is unknown; expected a three-letter ISO code: FRA, DEU, USA, ..."
        )
    return country.upper()
