"""Is a network too small for its time to be about arithmetic?

A runtime takes a while to call an operator, whatever the operator has to do. Where that makes up most of a
network's time, fewer channels hardly make it faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from exporters.probes.batch_time import cpu_threads
from exporters.probes.layer_time import kernel_operators
from exporters.probes.readings import Reading, Readings
from exporters.runtime.networks import evaluating, of_batch
from exporters.runtime.runners import RUNTIMES, Form
from exporters.to_onnx import to_onnx
from structprune.report.data import Runtime

SHORT, LONG = 8, 40
"""Operators of the chains that are timed for what one more of them costs."""
WARM, RUNS = 10, 50
BOUND = 0.5
"""The share of the time that calling operators must take for a network to count as launch-bound."""

CHAINED: tuple[Runtime, ...] = ("torch", "onnxruntime")
"""Runtimes whose operators can be counted; a compiler fuses them into kernels of its own."""

HEAVY = ("conv", "gemm", "matmul", "mm", "linear", "attention", "lstm", "gru")
"""What is in the names of operators that multiply matrices; setting one up costs more than the others."""
CHANNELS = 16


@dataclass(frozen=True)
class Operators:
    """How many operators one forward pass calls: those that multiply matrices, and the others."""

    heavy: int
    light: int

    @classmethod
    def named(cls, names: Sequence[str]) -> Operators:
        """Count operators by their names.

        Example:
            >>> Operators.named(["Conv", "aten.addmm", "Relu"])
            Operators(heavy=2, light=1)
        """
        heavy = sum(any(word in name.lower() for word in HEAVY) for name in names)
        return cls(heavy, len(names) - heavy)

    @property
    def total(self) -> int:
        """All of them."""
        return self.heavy + self.light


@dataclass(frozen=True)
class Floor:
    """What calls cost on this machine when there is next to nothing to compute, in ms.

    Attributes:
        call: of running a network at all.
        heavy: of each operator that multiplies matrices.
        light: of each other one.
    """

    call: float
    heavy: float
    light: float

    def of(self, operators: Operators) -> float:
        """Return the ms that a network of these operators takes at the least.

        Example:
            >>> Floor(call=0.5, heavy=0.25, light=0.125).of(Operators(heavy=2, light=4))
            1.5
        """
        return self.call + operators.heavy * self.heavy + operators.light * self.light


@cache
def floor(runtime: Runtime, device: str = "cpu", threads: int = 1) -> Floor:
    """Time chains of convolutions, and of activations, of a single pixel; the slopes are what each costs."""
    short, long = (_chain_time(runtime, device, threads, True, length) for length in (SHORT, LONG))
    heavy = max(0.0, (long - short) / (LONG - SHORT))
    call = max(0.0, short - SHORT * heavy)
    short, long = (_chain_time(runtime, device, threads, False, length) for length in (SHORT, LONG))
    return Floor(call, heavy, light=max(0.0, (long - short) / (LONG - SHORT)))


def _chain_time(runtime: Runtime, device: str, threads: int, heavy: bool, length: int) -> float:
    pixel = (torch.ones(1, CHANNELS, 1, 1),)
    with torch.random.fork_rng(devices=[]):  # drawing weights is no reason for the caller's to be others
        layers = [nn.Conv2d(CHANNELS, CHANNELS, 1) if heavy else nn.Tanh() for _ in range(length)]
    chain = nn.Sequential(*layers)
    with (
        _in_form(chain, pixel, runtime) as form,
        RUNTIMES[runtime].opened(form, pixel, device, threads) as run,
        cpu_threads(threads),
    ):
        for _ in range(WARM):
            run()
        return 1e3 * median(run() for _ in range(RUNS))


@contextmanager
def _in_form(chain: nn.Module, pixel: tuple[Tensor, ...], runtime: Runtime) -> Iterator[Form]:
    if not RUNTIMES[runtime].of_files:
        yield chain
        return
    with TemporaryDirectory(prefix="structprune-") as folder:
        yield to_onnx(chain, pixel, Path(folder, "chain.onnx")).path


def count_operators(network: Form, inputs: tuple[Tensor, ...], device: str = "cpu") -> Operators:
    """Count the operators of one forward pass: those of PyTorch, or what is left in ONNX Runtime's graph."""
    if isinstance(network, Path):
        return Operators.named(kernel_operators(network, inputs, device))
    place = next((x.device for x in network.parameters()), torch.device("cpu"))
    counter = _Counter()
    with evaluating(network), torch.no_grad(), counter:
        network(*(x.to(place) for x in inputs))
    return Operators.named(counter.names)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def with_launches(
    readings: Readings, networks: Sequence[Form], example: tuple[Tensor, ...], device: str = "cpu"
) -> Readings:
    """Add to batch times what share of them goes for calling operators: ``operators``, ``launch_share``."""
    if readings.runtime not in CHAINED:
        return readings
    least = floor(readings.runtime, device, readings.threads or 1)
    inputs = of_batch(example, readings.batch or 1)
    counts = [count_operators(network, inputs, device) for network in networks]
    diagnosed = (
        _diagnosed(reading, count, least) for reading, count in zip(readings.networks, counts, strict=True)
    )
    return replace(readings, networks=tuple(diagnosed))


def _diagnosed(reading: Reading, operators: Operators, least: Floor) -> Reading:
    share = min(1.0, least.of(operators) / median(reading.samples))
    figures = {"operators": float(operators.total), "launch_share": share}
    return replace(reading, extra={**reading.extra, **figures})


def launch_notes(found: Sequence[Readings], names: Sequence[str]) -> list[str]:
    """Say which networks are launch-bound, in which runtime and at which batch sizes."""
    notes = []
    for runtime in CHAINED:
        rows = [row for row in found if row.name == "batch_time" and row.runtime == runtime]
        rows = [row for row in rows if row.threads == rows[0].threads]
        for index, name in enumerate(names):
            bound = [row for row in rows if _share(row.networks[index]) >= BOUND]
            if bound:
                notes.append(_words(name, runtime, bound, bound[0].networks[index]))
    return notes


def _share(reading: Reading) -> float:
    return float(reading.extra.get("launch_share", 0.0))


def _words(name: str, runtime: Runtime, bound: Sequence[Readings], first: Reading) -> str:
    batches = " and ".join(str(row.batch) for row in bound)
    operators = int(float(first.extra["operators"]))
    return (
        f"{name} is launch-bound in {runtime} at batch {batches}: at batch {bound[0].batch} calling its "
        f"{operators} operators takes about {_share(first):.0%} of its time, whatever they compute, so fewer "
        f"channels hardly make it faster"
    ).replace("%", " %")
