"""Where a network computes, and in which mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from structprune.errors import DeviceUnavailableError, UsageError


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer; the CPU where there is none."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def named_device(name: torch.device | str) -> torch.device:
    """Return the device of a name such as ``cpu`` or ``cuda:1``, whether or not it is there.

    Raises:
        UsageError: torch knows no such kind of device.
    """
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; expected cpu, cuda or cuda:NUMBER") from error


@contextmanager
def on_device(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Move the network to a device, and back afterwards.

    Raises:
        DeviceUnavailableError: the device is not there.
    """
    home = device_of(model)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise DeviceUnavailableError(f"device {device} can't be used: {reason}") from error
    try:
        yield model
    finally:
        model.to(home)
