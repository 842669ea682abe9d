"""All probes, one after the other, on two networks or on several side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from torch import Tensor, nn

from exporters.probes.batch_time import batch_times
from exporters.probes.disk import disk
from exporters.probes.emissions import emissions
from exporters.probes.flops import flops
from exporters.probes.launch_bound import launch_notes, with_launches
from exporters.probes.layer_time import LayerTime, layer_times
from exporters.probes.memory import memory
from exporters.probes.readings import Readings, against_first
from exporters.runtime.networks import Network, modules_of
from exporters.runtime.providers import check_device, first_line
from exporters.runtime.runners import RUNTIMES, Form, runtimes_on
from structprune.errors import StructpruneError, UsageError
from structprune.report.data import Measurement, Runtime

Probe = Callable[[], tuple[Readings, ...]]


@dataclass(frozen=True)
class Measured:
    """What the probes found.

    Attributes:
        measurements: in the order in which they were taken.
        notes: which probes could not run, and why, and what a reader must know.
        layers: time by layer against the first network's, or nothing where it was not asked for.
    """

    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]
    layers: tuple[LayerTime, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What every probe is run with.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        batches: batch sizes to time; memory, energy and layers take the first.
        threads: numbers of CPU threads inside an operator to time; the others take the first.
        seconds: time in which energy is taken, for each network.
        country: three-letter ISO code of the electricity used, or None.
        runtimes: what runs the networks while they are timed.
        layers: whether to take the time layer by layer.
    """

    device: str = "cpu"
    batches: Sequence[int] = (1, 8)
    threads: Sequence[int] = (1,)
    seconds: float = 5.0
    country: str | None = None
    runtimes: Sequence[Runtime] = ("torch", "onnxruntime")
    layers: bool = False


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
        country: three-letter ISO code of the electricity used; None as in
            :class:`exporters.probes.tracker.Tracker`.
        progress: called with the name of what is measured next.

    Returns:
        The measurements, and a note for each probe that could not run.

    Raises:
        UsageError: an option makes no sense.
        DeviceUnavailableError: the device is not there.
    """
    networks = (Network(dense, dense_onnx), Network(pruned, pruned_onnx))
    setting = Setting(device, batches, (threads,), seconds, country)
    return measure_many(networks, example, setting, progress, ("the dense network", "the pruned network"))[1]


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
    names: Sequence[str] = (),
) -> tuple[Measured, ...]:
    """Measure networks side by side, each held against the first.

    Where one of them is there as a file only, what takes modules is left out, with a note.

    Args:
        networks: the first is the reference.
        example: positional inputs of all, each of shape [B, ...].
        setting: what every probe is run with.
        progress: called with the name of what is measured next.
        names: what notes call the networks.

    Returns:
        One entry a network. The first one's holds it on its own, without ratios; all have the same notes.

    Raises:
        UsageError: an option makes no sense.
        DeviceUnavailableError: the device is not there.
    """
    setting = setting or Setting()
    say = progress or (lambda _: None)
    names = names or [f"network {index + 1}" for index in range(len(networks))]
    _check(networks, setting)
    notes = list(_left_out(networks, setting))
    found: list[Readings] = []
    for name, probe in _probes(networks, example, setting):
        say(name)
        with noted(name, notes):
            found += probe()
    layers: Sequence[tuple[LayerTime, ...]] = [()] * len(networks)
    if setting.layers:
        say("layers")
        with noted("time by layer", notes):
            layers = _layers(networks, example, setting)
    notes += launch_notes(found, names)
    return tuple(
        Measured(tuple(against_first(readings, index) for readings in found), tuple(notes), layers[index])
        for index in range(len(networks))
    )


@contextmanager
def noted(name: str, notes: list[str]) -> Iterator[None]:
    """Note what a probe can't do.

    One that the machine can't run must not cost the others: out of memory, a provider that is not there, a
    file that has gone.
    """
    try:
        yield
    except (StructpruneError, RuntimeError, OSError, MemoryError) as error:
        notes.append(f"{name} was not measured: {first_line(error)}")


def _check(networks: Sequence[Network], setting: Setting) -> None:
    if not networks:
        raise UsageError("there is nothing to measure; give at least one network")
    positive = (*setting.batches, *setting.threads, setting.seconds)
    if not setting.batches or not setting.threads or min(positive) <= 0:
        raise UsageError(
            f"batches {tuple(setting.batches)}, threads {tuple(setting.threads)} and seconds "
            f"{setting.seconds} must all be positive"
        )
    runtimes_on(setting.device, tuple(setting.runtimes))
    check_device(setting.device)


def _left_out(networks: Sequence[Network], setting: Setting) -> Iterator[str]:
    if modules_of(networks):
        return
    of_modules = [name for name in setting.runtimes if not RUNTIMES[name].of_files]
    files = ", ".join(network.onnx.name for network in networks if network.model is None)
    yield (
        f"{files}: ONNX files run in ONNX Runtime only, so multiply-adds, weights on disk "
        f"{''.join(f'and times in {name} ' for name in of_modules)}were not taken"
    )


def _layers(
    networks: Sequence[Network], example: tuple[Tensor, ...], setting: Setting
) -> Sequence[tuple[LayerTime, ...]]:
    return layer_times(
        [network.onnx for network in networks],
        example,
        batch=setting.batches[0],
        device=setting.device,
        threads=setting.threads[0],
    )


def _probes(
    networks: Sequence[Network], example: tuple[Tensor, ...], setting: Setting
) -> Iterator[tuple[str, Probe]]:
    """Yield each probe with its name; none has run yet."""
    models, files = modules_of(networks), [network.onnx for network in networks]
    device, first, threads = setting.device, setting.batches[0], setting.threads[0]
    if models:
        yield "flops", lambda: (flops(models, example),)
    yield "disk", lambda: disk(networks)
    for swept, batch, runtime in product(setting.threads, setting.batches, _runtimes(networks, setting)):
        forms: Sequence[Form] = files if RUNTIMES[runtime].of_files else models
        words = f", {swept} threads" if len(setting.threads) > 1 else ""
        timing = partial(_timed, forms, example, batch, device, swept, runtime)
        yield f"batch time ({runtime}, batch {batch}{words})", timing
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


def _runtimes(networks: Sequence[Network], setting: Setting) -> list[Runtime]:
    """Return the runtimes asked for that can run all of the networks."""
    asked = runtimes_on(setting.device, tuple(setting.runtimes))
    return [name for name in asked if RUNTIMES[name].of_files or modules_of(networks)]


def _timed(
    forms: Sequence[Form],
    example: tuple[Tensor, ...],
    batch: int,
    device: str,
    threads: int,
    runtime: Runtime,
) -> tuple[Readings, ...]:
    readings = batch_times(forms, example, batch=batch, device=device, threads=threads, runtime=runtime)
    # A diagnosis that fails must not cost the reading.
    with suppress(Exception):
        readings = with_launches(readings, forms, example, device)
    return (readings,)
