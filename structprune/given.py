"""What a Python caller gives, checked before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from structprune.batch_norm import evaluating, on_copies
from structprune.errors import InputError, UsageError
from structprune.samples import Samples

WRAPPED: Mapping[type, str] = {
    nn.DataParallel: "the network inside, its .module",
    DistributedDataParallel: "the network inside, its .module",
    torch.jit.ScriptModule: "the module that it was made of: TorchScript has no layers to cut",
}
"""Modules that stand for another one -> what to give instead."""

IGNORED = -100
"""The class that cross entropy leaves out."""


def check_network(model: object) -> None:
    """Refuse what is no plain network whose weights are there.

    Raises:
        UsageError: it is no module, or wraps one.
        InputError: its weights are on the meta device.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise UsageError(f"model is {kind}; expected a network, an nn.Module")
    for wrapper, instead in WRAPPED.items():
        if isinstance(model, wrapper):
            raise UsageError(f"model is a {type(model).__name__}; give {instead}")
    if hasattr(model, "_orig_mod"):
        raise UsageError("model was compiled by torch.compile; give the network that was compiled")
    if any(x.is_meta for x in (*model.parameters(), *model.buffers())):
        raise InputError("the network is on the meta device, where it has no weights; load them first")


def check_callable(**given: Callable[..., object] | None) -> None:
    """Refuse what is to be called and can't be.

    Raises:
        UsageError: naming the argument.
    """
    for name, value in given.items():
        if value is not None and not callable(value):
            raise UsageError(f"{name} is a {type(value).__name__}; expected a function")


def check_data(model: nn.Module, samples: Samples) -> None:
    """Refuse inputs that a network can't run on, and classes that it has no output for.

    Raises:
        InputError: saying which.
    """
    few = tuple(x[:2] for x in samples.batches[0].inputs)
    output = _output(model, samples, few)
    if not samples.classes:
        return
    classes = output.shape[1]
    targets = torch.cat([batch.target.flatten() for batch in samples.batches])
    targets = targets[targets != IGNORED]
    if len(targets) and (targets.min() < 0 or targets.max() >= classes):
        raise InputError(
            f"the targets of data go from {targets.min()} to {targets.max()} and the network has {classes} "
            f"outputs; expected classes from 0 to {classes - 1}, or loss= for other targets"
        )


def _output(model: nn.Module, samples: Samples, few: tuple[Tensor, ...]) -> Any:
    try:
        with torch.no_grad(), evaluating(model):
            output = samples.forward(on_copies(model), few)
    # A forward pass raises whatever it likes; ours say what they mean.
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        shapes = ", ".join(f"{tuple(x.shape[1:])} {str(x.dtype).removeprefix('torch.')}" for x in few)
        raise InputError(
            f"the network can't run on the inputs of data, each {shapes}: {reason}; give inputs that it takes"
        ) from error
    return output
