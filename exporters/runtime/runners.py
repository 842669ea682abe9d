"""What runs a network, by name: PyTorch as it stands or compiled, ONNX Runtime with and without copies."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.runtime.networks import evaluating
from exporters.runtime.providers import (
    Timed,
    check_device,
    device_kind,
    first_line,
    onnx_runner,
    open_session,
)
from exporters.runtime.quiet import quiet
from structprune.choices import CHOICES
from structprune.errors import InputError, UsageError
from structprune.report.data import Runtime

Form = nn.Module | Path
Opened = Callable[[Form, tuple[Tensor, ...], str, int], AbstractContextManager[Timed]]
"""(network, inputs, device, CPU threads) -> a timed forward pass, for as long as the context is open."""


@dataclass(frozen=True)
class Runner:
    """One way of running a network.

    Attributes:
        words: its name for a reader; ``{provider}`` stands for ONNX Runtime's.
        of_files: whether it runs ONNX files, else modules.
        opened: makes the timed forward pass.
        on: kinds of devices where it is something of its own.
    """

    words: str
    of_files: bool
    opened: Opened
    on: tuple[str, ...] = ("cpu", "cuda")


@contextmanager
def _in_torch(
    network: Form, inputs: tuple[Tensor, ...], device: str, threads: int, *, compiled: bool
) -> Iterator[Timed]:
    check_device(device)
    if isinstance(network, Path):
        raise UsageError(f"PyTorch can't run the ONNX file {network.name!r}; time it in onnxruntime")
    on_cuda = device_kind(device) == "cuda"
    # The caller's module stays where it is.
    model = copy.deepcopy(network).to(device) if on_cuda else network
    placed = tuple(x.to(device) for x in inputs)
    timed = partial(_cuda_timed, device=device) if on_cuda else _cpu_timed
    with evaluating(model), _forgetting() if compiled else nullcontext():
        yield _torch_runner(_compiled(model, placed) if compiled else model, placed, timed)


@contextmanager
def _forgetting() -> Iterator[None]:
    """Drop what was compiled when the timing is over.

    It is kept by function and not by module: after eight networks or shapes of one class PyTorch would go
    back to running them as they stand, in silence.
    """
    try:
        yield
    finally:
        torch.compiler.reset()


def _compiled(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., object]:
    """Compile a module for inputs of these shapes, and run it once: the first run is what compiles.

    Raises:
        InputError: there is no compiler that works, or it can't cope with the network.
    """
    run: Callable[..., object] = torch.compile(model, dynamic=False)
    try:
        with quiet(), torch.inference_mode():
            run(*inputs)
    # Compilers raise whatever the network, the code generator or the C++ compiler raises.
    except Exception as error:
        raise InputError(
            "torch.compile needs a C++ compiler (on CUDA, Triton) and a network that it can trace: "
            f"{first_line(error)}"
        ) from error
    return run


def _torch_runner(
    run: Callable[..., object],
    inputs: tuple[Tensor, ...],
    timed: Callable[[Callable[[], object]], float],
) -> Timed:
    def once() -> float:
        with torch.inference_mode():
            return timed(lambda: run(*inputs))

    return once


def _cpu_timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cuda_timed(run: Callable[[], object], device: str) -> float:
    """Time on the device's own clock, from an idle device to an idle device."""
    event: Any = torch.cuda.Event
    with torch.cuda.device(device):
        start, end = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


@contextmanager
def _in_onnxruntime(
    network: Form, inputs: tuple[Tensor, ...], device: str, threads: int, *, copies: bool
) -> Iterator[Timed]:
    if isinstance(network, nn.Module):
        raise UsageError("ONNX Runtime runs files; export the network first")
    yield onnx_runner(open_session(network, device=device, threads=threads), inputs, copies=copies)


RUNTIMES: Mapping[Runtime, Runner] = {
    "torch": Runner("PyTorch, eager", of_files=False, opened=partial(_in_torch, compiled=False)),
    "torch-compile": Runner(
        "PyTorch, torch.compile once before the clock runs",
        of_files=False,
        opened=partial(_in_torch, compiled=True),
    ),
    "onnxruntime": Runner(
        "ONNX Runtime, {provider}, inputs and outputs bound where it runs",
        of_files=True,
        opened=partial(_in_onnxruntime, copies=False),
    ),
    "onnxruntime-copies": Runner(
        "ONNX Runtime, {provider}, inputs copied from the host and outputs back in every run",
        of_files=True,
        opened=partial(_in_onnxruntime, copies=True),
        on=("cuda",),
    ),
}
"""In the order in which they are measured."""


def runtimes_on(device: str, asked: tuple[Runtime, ...]) -> tuple[Runtime, ...]:
    """Return what is measured on a device where ``asked`` was asked for; copies go with ONNX Runtime.

    Raises:
        UsageError: no runtime has that name.

    Example:
        >>> runtimes_on("cpu", ("onnxruntime",)), runtimes_on("cuda:0", ("onnxruntime",))
        (('onnxruntime',), ('onnxruntime', 'onnxruntime-copies'))
    """
    if unknown := [name for name in asked if name not in CHOICES["runtime"]]:
        raise UsageError(f"unknown runtime {unknown[0]!r}; expected one of: {', '.join(CHOICES['runtime'])}")
    wanted = {*asked, *(["onnxruntime-copies"] if "onnxruntime" in asked else [])}
    kind = device_kind(device)
    return tuple(name for name, runner in RUNTIMES.items() if name in wanted and kind in runner.on)
