"""Energy and carbon of running a network, and when compressing it has paid for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from exporters.probes.readings import Reading, Readings
from exporters.probes.tracker import NO_FIGURES, Spent, Tracker
from exporters.runtime.networks import of_batch
from exporters.runtime.providers import Timed, device_kind, onnx_runner, open_session, running_provider
from structprune.errors import InputError

BLOCKS = 5
LONG_ENOUGH = 5.0
"""Seconds a network from which on the sensors' and the estimate's steps of a second stop to matter."""
IDLE_SECONDS = 2.0
INFERENCES = 1000
"""That the figures are given for; one input through the network is one inference."""


@dataclass
class Meter:
    """What the body of :func:`metered` spent; filled in when it ends.

    Attributes:
        joules: energy, or None where it can't be told.
        how: where the figure comes from: sensor or estimate, country and intensity; or why there is none.
    """

    joules: float | None = None
    how: str = ""


@contextmanager
def metered(country: str | None = None) -> Iterator[Meter]:
    """Take the energy of what happens in the body, such as compressing a network, beyond an idle machine's.

    Where it can't be told, the meter stays empty and says why: that must not cost what the body did.

    Args:
        country: as for :class:`exporters.probes.tracker.Tracker`; it matters for carbon only.

    Raises:
        UsageError: the country is unknown.
    """
    tracker, meter = Tracker(country), Meter()
    idle = _idle_watts(tracker, meter)
    begun = tracker.begin()
    try:
        yield meter
    finally:
        spent = tracker.end(begun)
    if idle is None or spent is None:
        meter.how = meter.how or NO_FIGURES
        return
    try:
        meter.joules = spent.above(idle).joules
        meter.how = f"{tracker.how([spent])}; {tracker.idle_words(idle)}"
    except InputError as error:
        meter.how = str(error)


def _idle_watts(tracker: Tracker, meter: Meter) -> float | None:
    try:
        return tracker.idle_watts(IDLE_SECONDS)
    except InputError as error:
        meter.how = str(error)
        return None


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

    Where there is a sensor, what it reads of the idle machine just before is subtracted.

    Args:
        paths: ONNX files.
        example: positional inputs, each of shape [B, ...]; repeated or cut to ``batch``.
        batch: inputs per run.
        device: ``"cpu"`` or ``"cuda"``.
        threads: CPU threads inside an operator.
        seconds: time on each file; under 5 s the figures are coarse.
        country: three-letter ISO code, as for :class:`exporters.probes.tracker.Tracker`.

    Returns:
        Energy in J and emissions in gCO2e, both per 1,000 inferences.

    Raises:
        UsageError: the country is unknown.
        DeviceUnavailableError: ONNX Runtime's provider for the device is not there.
        InputError: a file can't be run, or codecarbon gives no figures.
    """
    sessions = [open_session(path, device=device, threads=threads) for path in paths]
    inputs = of_batch(example, batch)
    runs = [onnx_runner(session, inputs) for session in sessions]
    tracker, block = Tracker(country), seconds / BLOCKS
    idle = tracker.idle_watts(seconds)
    rounds = [[per_inferences(tracker, run, block, batch, idle) for run in runs] for _ in range(BLOCKS)]
    how = (
        f"per {INFERENCES:,} inferences; {tracker.how([spent for row in rounds for spent in row])}; "
        f"{tracker.idle_words(idle)}; "
        f"ONNX Runtime, {running_provider(sessions[0])}, {BLOCKS} blocks of {block:.1f} s in turn"
        f"{'' if seconds >= LONG_ENOUGH else f'; coarse, since under {LONG_ENOUGH:g} s a network'}"
    )
    columns = list(zip(*rounds, strict=True))
    joules = tuple(Reading(tuple(spent.joules for spent in column)) for column in columns)
    grams = tuple(Reading(tuple(spent.grams for spent in column)) for column in columns)
    extra: dict[str, float | str] = {"basis": tracker.basis[device_kind(device)], "idle_watts": idle}
    return (
        Readings("energy", "onnxruntime", batch, threads, "J", how, joules, extra),
        Readings("emissions", "onnxruntime", batch, threads, "gCO2e", how, grams, extra),
    )


def per_inferences(
    tracker: Tracker, run: Timed, seconds: float, batch: int, idle_watts: float = 0.0
) -> Spent:
    """Loop a warmed network for ``seconds``; return what 1,000 inferences take beyond the idle machine."""
    run()
    elapsed, inferences = 0.0, 0
    with tracker.spending() as spent:
        while elapsed < seconds:
            elapsed += run()
            inferences += batch
    above = spent[0].above(idle_watts)
    return Spent(above.joules / inferences * INFERENCES, above.grams / inferences * INFERENCES)
