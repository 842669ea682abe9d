"""What a run ran on: versions and hardware, without names of users, hosts or folders."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from structprune._version import __version__
from structprune.errors import DeviceUnavailableError, UsageError

_PACKAGES = ("torch", "torchvision", "torch-pruning", "onnx", "onnxruntime-gpu", "onnxruntime", "codecarbon")


def software() -> dict[str, str]:
    """Return name -> version of what computes; a package that is not installed is left out."""
    return {"structprune": __version__, "python": platform.python_version(), **dict(_versions())}


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def hardware(device: torch.device) -> dict[str, str]:
    """Return processor, cores, threads, instruction set, and the GPU where one computes."""
    found = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device.type,
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def processor() -> str:
    """Return the processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def device_named(name: str) -> torch.device:
    """Return a device that is there.

    Raises:
        UsageError: the name is no device's.
        DeviceUnavailableError: it is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; expected cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; expected cpu, cuda or cuda:0")
    if device.type == "cuda" and (device.index or 0) >= _cuda_devices():
        raise DeviceUnavailableError(
            f"device {name!r} is not there: torch finds {_cuda_devices()} CUDA devices; use cpu"
        )
    return device


def _cuda_devices() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
