"""Where a network computes, and in which mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from structprune.errors import DeviceUnavailableError


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the first parameter or buffer; the CPU where there is none."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Switch to evaluation mode, and give every module its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


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
