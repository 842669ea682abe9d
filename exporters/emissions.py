"""Energy and carbon of running a network, and when compressing it has paid for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from exporters.networks import of_batch
from exporters.providers import Timed, onnx_runner, open_session, running_provider
from exporters.readings import Reading, Readings
from exporters.tracker import Spent, Tracker

BLOCKS = 5
INFERENCES = 1000
"""That the figures are given for; one input through the network is one inference."""


@dataclass
class Meter:
    """What the body of :func:`metered` spent; filled in when it ends.

    Attributes:
        joules: energy.
        how: where the figure comes from: sensor or estimate, country and intensity.
    """

    joules: float = 0.0
    how: str = ""


@contextmanager
def metered(country: str | None = None) -> Iterator[Meter]:
    """Take the energy of what happens in the body, such as compressing a network.

    Args:
        country: as for :class:`exporters.tracker.Tracker`; it matters for carbon only.

    Raises:
        UsageError: the country is unknown.
        InputError: codecarbon gives no figures.
    """
    tracker, meter = Tracker(country), Meter()
    with tracker.spending() as spent:
        yield meter
    meter.joules, meter.how = spent[0].joules, tracker.how(spent)


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
        country: three-letter ISO code, as for :class:`exporters.tracker.Tracker`.

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
    rounds = [[per_inferences(tracker, run, block, batch) for run in runs] for _ in range(BLOCKS)]
    how = (
        f"per {INFERENCES:,} inferences; {tracker.how([spent for row in rounds for spent in row])}; "
        f"ONNX Runtime, {running_provider(sessions[0])}, {BLOCKS} blocks of {block:.1f} s in turn"
    )
    columns = list(zip(*rounds, strict=True))
    joules = tuple(Reading(tuple(spent.joules for spent in column)) for column in columns)
    grams = tuple(Reading(tuple(spent.grams for spent in column)) for column in columns)
    return (
        Readings("energy", "onnxruntime", batch, threads, "J", how, joules),
        Readings("emissions", "onnxruntime", batch, threads, "gCO2e", how, grams),
    )


def per_inferences(tracker: Tracker, run: Timed, seconds: float, batch: int) -> Spent:
    """Loop a warmed network for ``seconds`` and return what 1,000 inferences take."""
    run()
    elapsed, inferences = 0.0, 0
    with tracker.spending() as spent:
        while elapsed < seconds:
            elapsed += run()
            inferences += batch
    return Spent(spent[0].joules / inferences * INFERENCES, spent[0].grams / inferences * INFERENCES)
