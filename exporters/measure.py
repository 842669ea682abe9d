"""All probes, one after the other, on two networks or on several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from torch import Tensor, nn

from exporters.batch_time import batch_times
from exporters.disk import disk
from exporters.emissions import emissions
from exporters.flops import flops
from exporters.memory import memory
from exporters.networks import Network
from exporters.providers import check_device, first_line
from exporters.readings import Readings, against_first
from structprune.errors import StructpruneError, UsageError
from structprune.report import Measurement

Probe = Callable[[], tuple[Readings, ...]]


@dataclass(frozen=True)
class Measured:
    """What the probes found.

    Attributes:
        measurements: in the order in which they were taken.
        notes: which probes could not run, and why.
    """

    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """What every probe is run with.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        batches: batch sizes to time; memory and energy take the first.
        threads: CPU threads inside an operator.
        seconds: time in which energy is taken, for each network.
        country: three-letter ISO code of the electricity used, or None.
    """

    device: str = "cpu"
    batches: Sequence[int] = (1, 8)
    threads: int = 1
    seconds: float = 5.0
    country: str | None = None


def measure(
    dense: nn.Module,
    pruned: nn.Module,
    example: tuple[Tensor, ...],
    *,
    dense_onnx: Path,
    pruned_onnx: Path,
    device: str = "cpu",
    batches: Sequence[int] = (1, 8),
    threads: int = 1,
    seconds: float = 5.0,
    country: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Measured:
    """Measure what compressing bought: time, memory, disk, multiply-adds, energy and carbon.

    Args:
        dense: the network that came in; as it was, afterwards.
        pruned: the network that goes out; as it was, afterwards.
        example: positional inputs of both, each of shape [B, ...].
        dense_onnx: the dense network as an ONNX file.
        pruned_onnx: the pruned network as an ONNX file.
        device: ``"cpu"`` or ``"cuda"``.
        batches: batch sizes to time; memory and energy take the first.
        threads: CPU threads inside an operator.
        seconds: time in which energy is taken, for each network.
        country: three-letter ISO code of the electricity used; None as in :class:`exporters.tracker.Tracker`.
        progress: called with the name of what is measured next.

    Returns:
        The measurements, and a note for each probe that could not run.

    Raises:
        UsageError: an option makes no sense.
        DeviceUnavailableError: the device is not there.
    """
    networks = (Network(dense, dense_onnx), Network(pruned, pruned_onnx))
    setting = Setting(device, batches, threads, seconds, country)
    return measure_many(networks, example, setting, progress)[1]


def measure_one(
    model: nn.Module,
    onnx: Path,
    example: tuple[Tensor, ...],
    setting: Setting | None = None,
    progress: Callable[[str], None] | None = None,
) -> Measured:
    """Measure one network on its own; every measurement holds it twice and has no ratio."""
    return measure_many((Network(model, onnx),), example, setting, progress)[0]


def measure_many(
    networks: Sequence[Network],
    example: tuple[Tensor, ...],
    setting: Setting | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Measured, ...]:
    """Measure networks side by side, each held against the first.

    Returns:
        One entry a network. The first one's holds it on its own, without ratios; all have the same notes.

    Raises:
        UsageError: an option makes no sense.
        DeviceUnavailableError: the device is not there.
    """
    setting = setting or Setting()
    _check(networks, setting)
    found: list[Readings] = []
    notes: list[str] = []
    for name, probe in _probes(networks, example, setting):
        if progress:
            progress(name)
        try:
            found += probe()
        # One probe that the machine can't run must not cost the others: out of memory, a provider that is
        # not there, a file that has gone.
        except (StructpruneError, RuntimeError, OSError, MemoryError) as error:
            notes.append(f"{name} was not measured: {first_line(error)}")
    return tuple(
        Measured(tuple(against_first(readings, index) for readings in found), tuple(notes))
        for index in range(len(networks))
    )


def _check(networks: Sequence[Network], setting: Setting) -> None:
    if not networks:
        raise UsageError("there is nothing to measure; give at least one network")
    if not setting.batches or min(setting.batches) < 1 or setting.threads < 1 or setting.seconds <= 0:
        raise UsageError(
            f"batches {tuple(setting.batches)}, threads {setting.threads} and seconds {setting.seconds} "
            f"must all be positive"
        )
    check_device(setting.device)


def _probes(
    networks: Sequence[Network], example: tuple[Tensor, ...], setting: Setting
) -> Iterator[tuple[str, Probe]]:
    """Yield each probe with its name; none has run yet."""
    device, threads, first = setting.device, setting.threads, setting.batches[0]
    models, files = [network.model for network in networks], [network.onnx for network in networks]
    forms: dict[str, Sequence[nn.Module | Path]] = {"torch": models, "onnxruntime": files}

    def timing(runtime: str, batch: int) -> tuple[Readings, ...]:
        return (batch_times(forms[runtime], example, batch=batch, device=device, threads=threads),)

    yield "flops", lambda: (flops(models, example),)
    yield "disk", lambda: disk(networks)
    for batch, runtime in product(setting.batches, forms):
        yield f"batch time ({runtime}, batch {batch})", partial(timing, runtime, batch)
    yield "memory", lambda: (memory(networks, example, batch=first, device=device, threads=threads),)
    yield (
        "energy",
        lambda: emissions(
            files,
            example,
            batch=first,
            device=device,
            threads=threads,
            seconds=setting.seconds,
            country=setting.country,
        ),
    )
