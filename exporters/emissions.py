"""Energy and carbon of running a network, and of anything else, through codecarbon and without a network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from exporters.networks import of_batch
from exporters.providers import Timed, device_kind, onnx_runner, open_session, running_provider
from exporters.readings import Reading, Readings
from structprune.errors import InputError, UsageError

JOULES_PER_KWH = 3.6e6
GRAMS_PER_KG = 1e3
BLOCKS = 5
PER = 1000
"""Inferences that the figures are given for; one input through the network is one inference."""


@dataclass(frozen=True)
class Spent:
    """What a stretch of work took.

    Attributes:
        joules: energy.
        grams: carbon, in gCO2e.
    """

    joules: float
    grams: float


class Tracker:
    """codecarbon's offline tracker: no file, no log, no network access, whatever its configuration files say.

    Args:
        country: three-letter ISO code of the country whose electricity is used. None takes what codecarbon is
            configured with, and the world's average where it is not: where a machine stands can't be known offline.

    Raises:
        UsageError: codecarbon has no data on the country.
    """

    def __init__(self, country: str | None = None) -> None:
        self.country = None if country is None else _known_country(country)
        self.sensor = _sensor()
        with _quiet():
            self._tracker = _offline_tracker(self.country, machine=self.sensor is not None)
        # The first task sets codecarbon up, which takes a second and should not be counted.
        with self.spending():
            pass

    @contextmanager
    def spending(self) -> Iterator[list[Spent]]:
        """Take what the body spends; it is appended to the list when the body ends."""
        spent: list[Spent] = []
        with _quiet():
            self._tracker.start_task()
        try:
            yield spent
        finally:
            with _quiet():
                data = self._tracker.stop_task()
            if data is not None:
                spent.append(Spent(data.energy_consumed * JOULES_PER_KWH, data.emissions * GRAMS_PER_KG))

    def how(self, spent: Sequence[Spent]) -> str:
        """Say where the figures come from: sensor or estimate, country and intensity."""
        joules, grams = sum(each.joules for each in spent), sum(each.grams for each in spent)
        intensity = grams / joules * JOULES_PER_KWH if joules else 0.0
        source = (
            f"measured ({self.sensor})"
            if self.sensor
            else "estimated from this process's CPU time, no sensor"
        )
        place = self.country or getattr(self._tracker, "_country_iso_code", None) or "world average"
        return f"codecarbon, offline; {source}; electricity of {place}, {intensity:.0f} gCO2e/kWh"


def _sensor() -> str | None:
    """Name the energy counter that codecarbon will read, or None where it estimates."""
    from codecarbon.core import cpu, gpu

    with _quiet():
        found = {
            "RAPL": cpu.is_rapl_available(),
            "NVML": gpu.is_nvidia_system(),
        }
    return " and ".join(name for name, there in found.items() if there) or None


def _offline_tracker(country: str | None, *, machine: bool) -> Any:
    """Build the tracker.

    A counter reads the whole machine. An estimate follows the load: that of the whole machine would charge us
    for our neighbours (22-28 J for the same second of work, as they came and went), our own does not (14.1-14.3 J).
    """
    from codecarbon import OfflineEmissionsTracker

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


def _known_country(country: str) -> str:
    from codecarbon.input import DataSource

    known = DataSource().get_global_energy_mix_data()
    if country.upper() not in known:
        raise UsageError(
            f"country {country!r} is unknown to codecarbon; expected a three-letter ISO code such as FRA, DEU or USA"
        )
    return country.upper()


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class Meter:
    """Takes the energy of what happens in its body.

    Args:
        country: as for :class:`Tracker`.

    Attributes:
        joules: energy spent, after the body has ended.
        how: where the figure comes from, after the body has ended.
    """

    def __init__(self, country: str | None = None) -> None:
        self._tracker = Tracker(country)
        self.joules = 0.0
        self.how = ""

    def __enter__(self) -> Meter:
        self._spending = self._tracker.spending()
        self._spent = self._spending.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spending.__exit__(kind, error, trace)
        self.joules = sum(each.joules for each in self._spent)
        self.how = self._tracker.how(self._spent)


def break_even(
    spent_joules: float, dense_j_per_inference: float, pruned_j_per_inference: float
) -> float | None:
    """Inferences until the energy spent on compressing is earned back.

    Returns:
        spent / (dense - pruned), or None where an inference saves nothing.

    Example:
        >>> break_even(900.0, 0.5, 0.2)
        3000.0
    """
    saved = dense_j_per_inference - pruned_j_per_inference
    return spent_joules / saved if saved > 0 else None


def emissions(
    paths: Sequence[Path],
    example: tuple[Tensor, ...],
    *,
    batch: int = 1,
    device: str = "cpu",
    threads: int = 1,
    seconds: float = 5.0,
    country: str | None = None,
) -> tuple[Readings, Readings]:
    """Loop ONNX files for ``seconds`` each, in blocks that take turns, and take energy and carbon.

    Args:
        paths: ONNX files.
        example: positional inputs, each of shape [B, ...]; repeated or cut to ``batch``.
        batch: inputs per run.
        device: ``"cpu"`` or ``"cuda"``.
        threads: CPU threads inside an operator.
        seconds: time on each file; under 5 s the figures are coarse.
        country: three-letter ISO code, as for :class:`Tracker`.

    Returns:
        Energy in J and emissions in gCO2e, both per 1,000 inferences.

    Raises:
        UsageError: the country is unknown.
        DeviceUnavailableError: ONNX Runtime's provider for the device is not there.
        InputError: a file can't be run, or codecarbon gives no figures.
    """
    sessions = [open_session(path, device=device, threads=threads) for path in paths]
    inputs = of_batch(example, batch)
    tracker = Tracker(country)
    runs = [onnx_runner(session, inputs) for session in sessions]
    rounds = [[_block(tracker, run, seconds / BLOCKS, batch) for run in runs] for _ in range(BLOCKS)]
    how = (
        f"{tracker.how([spent for row in rounds for spent in row])}; ONNX Runtime "
        f"({running_provider(sessions[0])}, {device_kind(device)}), {BLOCKS} blocks of {seconds / BLOCKS:.1f} s"
    )

    def readings(name: Any, unit: str, figure: Callable[[Spent], float]) -> Readings:
        networks = tuple(Reading(tuple(map(figure, column))) for column in zip(*rounds, strict=True))
        return Readings(name, "onnxruntime", batch, threads, unit, f"per {PER:,} inferences; {how}", networks)

    return readings("energy", "J", lambda spent: spent.joules), readings(
        "emissions", "gCO2e", lambda spent: spent.grams
    )


def _block(tracker: Tracker, run: Timed, seconds: float, batch: int) -> Spent:
    """Return what 1,000 inferences take, from a warmed loop of ``seconds``."""
    run()
    elapsed, inferences = 0.0, 0
    with tracker.spending() as spent:
        while elapsed < seconds:
            elapsed += run()
            inferences += batch
    if not spent or spent[0].joules <= 0:
        raise InputError("codecarbon gave no energy for a stretch of work; it can't measure on this machine")
    return Spent(spent[0].joules / inferences * PER, spent[0].grams / inferences * PER)
