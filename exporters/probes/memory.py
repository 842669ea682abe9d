"""How much memory a network takes: on the CPU a process's resident set, on CUDA what PyTorch allocated."""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from exporters.probes.readings import Reading, Readings
from exporters.runtime.networks import Network, evaluating, modules_of, of_batch
from exporters.runtime.providers import check_device, device_kind, feeds, open_session
from structprune.errors import InputError

MEGABYTE = 1e6
REPEATS = 3
RUNS = 3
PHASES = ("load", "first_run", "steady")
"""Reading the file, the first run, which lays out what later ones use again, and the runs after it."""


@dataclass(frozen=True)
class Phase:
    """Resident sets of one phase, in bytes.

    Attributes:
        peak: the largest in it.
        after: what stayed when it was over.
    """

    peak: int
    after: int


@dataclass(frozen=True)
class Resident:
    """Resident sets of a process that runs one ONNX file.

    Attributes:
        baseline: bytes with interpreter, libraries and inputs loaded.
        phases: name -> its resident sets.
    """

    baseline: int
    phases: Mapping[str, Phase]

    @property
    def peak(self) -> int:
        """The largest over all phases, in bytes."""
        return max(self.baseline, *(phase.peak for phase in self.phases.values()))


def memory(
    networks: Sequence[Network],
    example: tuple[Tensor, ...],
    *,
    batch: int = 1,
    device: str = "cpu",
    threads: int = 1,
) -> Readings:
    """Measure the memory that running a batch takes, in MB of 1e6 bytes.

    Args:
        networks: the networks; their ONNX files run on the CPU, their modules on CUDA.
        example: positional inputs, each of shape [B, ...]; repeated or cut to ``batch``.
        batch: inputs per run.
        device: ``"cpu"`` or ``"cuda"``.
        threads: CPU threads inside an operator.

    Raises:
        InputError: an ONNX file can't be run.
        DeviceUnavailableError: the device is not there.
    """
    check_device(device)
    inputs = of_batch(example, batch)
    if device_kind(device) == "cuda":
        return _on_cuda(modules_of(networks), inputs, batch, device)
    return resident_sets([network.onnx for network in networks], example, batch=batch, threads=threads)


def resident_sets(
    files: Sequence[Path], example: tuple[Tensor, ...], *, batch: int = 1, threads: int = 1
) -> Readings:
    """Run each ONNX file in processes of its own, in turn with the others, and take their memory."""
    inputs = of_batch(example, batch)
    jobs = [(path, feeds(open_session(path), inputs)) for path in files]
    rounds = [[resident_set(path, arrays, threads) for path, arrays in jobs] for _ in range(REPEATS)]
    return Readings(
        name="memory",
        runtime="onnxruntime",
        batch=batch,
        threads=threads,
        unit="MB",
        how=f"peak resident set (CPU) of a process that loads the ONNX file and runs it {RUNS + 1} times; "
        f"{REPEATS} processes a network, and their ratios' range as interval; "
        f"'baseline' is the interpreter and its libraries, 'network' the "
        f"rest; by phase without the baseline: the peak in it, and what stays after it",
        networks=tuple(_resident(taken) for taken in zip(*rounds, strict=True)),
    )


def resident_set(path: Path, arrays: Mapping[str, npt.NDArray[Any]], threads: int = 1) -> Resident:
    """Run an ONNX file in a process of its own.

    Args:
        path: the ONNX file.
        arrays: its inputs by name.
        threads: CPU threads inside an operator.

    Returns:
        Resident sets in bytes, by phase.

    Raises:
        InputError: the file can't be run.
    """
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "inputs.npz"
        np.savez(held, **arrays)  # type: ignore[arg-type]  # its own keyword is the only one that isn't an array
        done = _child(str(path.resolve()), str(held), str(threads), str(RUNS))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"{path.name!r} can't be run in a process of its own: {last[:200]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    phases = {name: Phase(**figures[name]) for name in PHASES}
    return Resident(figures["baseline"], phases)


def _child(*arguments: str) -> subprocess.CompletedProcess[str]:
    # -P: whatever lies in the current folder is not imported.
    command = [sys.executable, "-P", "-m", "exporters.probes.resident_set", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)


def _environment() -> dict[str, str]:
    """Return this process's environment, with the folder of our packages on the child's path."""
    folders = (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}


def _resident(taken: Sequence[Resident]) -> Reading:
    baseline = _typical([each.baseline for each in taken])
    peaks = [each.peak / MEGABYTE for each in taken]
    by_phase = {
        f"{name}_{what}": _typical([getattr(each.phases[name], what) for each in taken]) - baseline
        for name in PHASES
        for what in ("peak", "after")
    }
    network = float(np.median(peaks)) - baseline
    return Reading(tuple(peaks), {"baseline": baseline, "network": network, **by_phase})


def _typical(sizes: Sequence[int]) -> float:
    return float(np.median(sizes)) / MEGABYTE


def _on_cuda(models: Sequence[nn.Module], inputs: tuple[Tensor, ...], batch: int, device: str) -> Readings:
    if not models:
        raise InputError("GPU memory is taken of modules, and a network is there as a file only")
    return Readings(
        name="memory",
        runtime="torch",
        batch=batch,
        threads=None,
        unit="MB",
        how=f"peak allocated by PyTorch on {device} (GPU memory) in a forward pass, weights included; by "
        f"phase the peak in it, what stays after it, and what the allocator reserves",
        networks=tuple(_allocated(model, inputs, device) for model in models),
    )


def _allocated(network: nn.Module, inputs: tuple[Tensor, ...], device: str) -> Reading:
    """Move a copy of the module to the device, run it, and read PyTorch's allocator.

    What was allocated before is subtracted; what is reserved is the allocator's own, given as it stands.
    """
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    placed: list[Any] = []

    def load() -> None:
        placed.append(copy.deepcopy(network).to(device))
        placed.append(tuple(x.to(device) for x in inputs))

    def run(times: int) -> None:
        model, on_device = placed
        with evaluating(model), torch.inference_mode():
            for _ in range(times):
                model(*on_device)

    figures = {
        **_cuda_phase("load", load, before, device),
        **_cuda_phase("first_run", lambda: run(1), before, device),
        **_cuda_phase("steady", lambda: run(RUNS), before, device),
    }
    return Reading((figures["steady_peak"],), figures)


def _cuda_phase(name: str, work: Callable[[], object], before: int, device: str) -> dict[str, float]:
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    figures = {
        "peak": torch.cuda.max_memory_allocated(device) - before,
        "after": torch.cuda.memory_allocated(device) - before,
        "peak_reserved": torch.cuda.max_memory_reserved(device),
        "after_reserved": torch.cuda.memory_reserved(device),
    }
    return {f"{name}_{what}": size / MEGABYTE for what, size in figures.items()}
