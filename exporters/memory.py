"""How much memory a network takes: on the CPU a process's resident set, on CUDA what PyTorch allocated."""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from exporters.networks import Network, evaluating, of_batch
from exporters.providers import check_device, device_kind, feeds, open_session
from exporters.readings import Reading, Readings
from structprune.errors import InputError

MEGABYTE = 1e6
REPEATS = 3
RUNS = 3


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
        return _on_cuda(networks, inputs, batch, device)
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
        how=f"peak resident set (CPU) of a process that loads the ONNX file and runs it {RUNS} times; "
        f"{REPEATS} processes a network; 'baseline' is the interpreter and its libraries, 'network' the rest",
        networks=tuple(_resident(taken) for taken in zip(*rounds, strict=True)),
    )


def resident_set(path: Path, arrays: Mapping[str, npt.NDArray[Any]], threads: int = 1) -> Mapping[str, int]:
    """Run an ONNX file in a process of its own.

    Args:
        path: the ONNX file.
        arrays: its inputs by name.
        threads: CPU threads inside an operator.

    Returns:
        Peak resident sets in bytes: ``baseline`` with interpreter, libraries and inputs loaded, ``peak``
        after running the network.

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
    figures: dict[str, int] = json.loads(done.stdout)
    return figures


def _child(*arguments: str) -> subprocess.CompletedProcess[str]:
    # -P: whatever lies in the current folder is not imported.
    command = [sys.executable, "-P", "-m", "exporters.resident_set", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)


def _environment() -> dict[str, str]:
    """Return this process's environment, with the folder of our packages on the child's path."""
    folders = (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}


def _resident(taken: Sequence[Mapping[str, int]]) -> Reading:
    baseline = float(np.median([figures["baseline"] for figures in taken]))
    peaks = [figures["peak"] / MEGABYTE for figures in taken]
    network = float(np.median(peaks)) - baseline / MEGABYTE
    return Reading(tuple(peaks), {"baseline": baseline / MEGABYTE, "network": network})


def _on_cuda(networks: Sequence[Network], inputs: tuple[Tensor, ...], batch: int, device: str) -> Readings:
    return Readings(
        name="memory",
        runtime="torch",
        batch=batch,
        threads=None,
        unit="MB",
        how=f"peak allocated by PyTorch on {device} (GPU memory) in a forward pass, weights included",
        networks=tuple(_allocated(network, inputs, device) for network in networks),
    )


def _allocated(network: Network, inputs: tuple[Tensor, ...], device: str) -> Reading:
    """Move a copy of the module to the device, run it, and read PyTorch's allocator.

    What was allocated before is subtracted; what is reserved is the allocator's own, given as it stands.
    """
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    model = copy.deepcopy(network.model).to(device)
    placed = tuple(x.to(device) for x in inputs)
    with evaluating(model), torch.inference_mode():
        # The first pass chooses kernels and takes workspaces that later ones don't.
        model(*placed)
        torch.cuda.synchronize(device)
        steady = torch.cuda.memory_allocated(device) - before
        torch.cuda.reset_peak_memory_stats(device)
        model(*placed)
        torch.cuda.synchronize(device)
    figures = {
        "steady_allocated": float(steady),
        "peak_reserved": float(torch.cuda.max_memory_reserved(device)),
        "steady_reserved": float(torch.cuda.memory_reserved(device)),
    }
    peak = (torch.cuda.max_memory_allocated(device) - before) / MEGABYTE
    return Reading((peak,), {key: value / MEGABYTE for key, value in figures.items()})
