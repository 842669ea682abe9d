"""What a Python caller gives, checked before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from structprune.batch_norm import buffers_kept, evaluating
from structprune.channels.isolated import exhausted
from structprune.choose import Scoring, takes_targets
from structprune.errors import InputError, UsageError
from structprune.samples import Samples
from structprune.sources.tensors import check_tree

WRAPPED: Mapping[type, str] = {
    nn.DataParallel: "the network inside, its .module",
    DistributedDataParallel: "the network inside, its .module",
    torch.jit.ScriptModule: "the module that it was made of: TorchScript has no layers to cut",
}
"""Modules that stand for another one -> what to give instead."""

FEW = 2
IGNORED = -100
"""The class that cross entropy leaves out."""


def check_network(model: object) -> None:
    """Refuse what is no plain network whose weights are there.

    Raises:
        UsageError: it is no module, or wraps one.
        InputError: its weights are on the meta device, or a module of it holds itself.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise UsageError(f"model is {kind}; expected a network, an nn.Module")
    for wrapper, instead in WRAPPED.items():
        if isinstance(model, wrapper):
            raise UsageError(f"model is a {type(model).__name__}; give {instead}")
    if hasattr(model, "_orig_mod"):
        raise UsageError("model was compiled by torch.compile; give the network that was compiled")
    check_tree(model, "model")
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


def check_data(model: nn.Module, samples: Samples, scoring: Scoring) -> None:
    """Refuse inputs that a network can't run on, and targets that cross entropy doesn't take.

    Targets are looked at only where the score takes their loss.

    Args:
        model: the network; it is left as it is.
        samples: the caller's own, put through the network as they are.
        scoring: how channels are scored.

    Raises:
        InputError: saying which.
    """
    first = samples.batches[0]
    output = _output(model, tuple(x[:FEW] for x in first.inputs))
    if samples.loss is not functional.cross_entropy or not takes_targets(samples, scoring):
        return
    if isinstance(output, Tensor) and output.dim() > 1:
        _check_classes(samples, output.shape[1])
    try:
        functional.cross_entropy(output, first.target[:FEW])
    except (RuntimeError, TypeError, ValueError) as error:
        got = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        wanted = f"{_kind(first.target)} of shape (N, {', '.join(map(str, first.target.shape[1:]))})"
        raise InputError(
            f"cross entropy doesn't take {got}, the output for {FEW} inputs, with targets {wanted}: "
            f"{_reason(error)}; give classes (N,) from 0 on, or loss= and forward="
        ) from error


def _check_classes(samples: Samples, classes: int) -> None:
    targets = torch.cat([batch.target.flatten() for batch in samples.batches])
    targets = targets[targets != IGNORED]
    if targets.is_floating_point() or not len(targets) or 0 <= targets.min() <= targets.max() < classes:
        return
    raise InputError(
        f"the targets of data go from {targets.min()} to {targets.max()} and the network has {classes} "
        f"outputs; expected classes from 0 to {classes - 1}, or loss= for other targets"
    )


def _output(model: nn.Module, few: tuple[Tensor, ...]) -> Any:
    try:
        with torch.no_grad(), evaluating(model), buffers_kept(model):
            return model(*few)
    # A forward pass raises whatever it likes.
    except Exception as error:
        if exhausted(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        shapes = ", ".join(f"{tuple(x.shape[1:])} {_kind(x)}" for x in few)
        raise InputError(
            f"the network can't run on the inputs of data, each {shapes}: {_reason(error)}; "
            "give inputs that it takes"
        ) from error


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
