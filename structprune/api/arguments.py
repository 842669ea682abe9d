"""What a Python caller gives, checked before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from structprune.channels.sandbox import exhausted
from structprune.errors import InputError, UsageError
from structprune.models.tensors import check_tree
from structprune.nn.batch_norm import buffers_kept, evaluating
from structprune.scoring.losses import IGNORED, Loss, check_name, class_axes
from structprune.scoring.predictions import Calls, part_of, watched
from structprune.scoring.samples import Forward, Samples, fitted, fitted_by_layers
from structprune.scoring.score import Scoring, takes_loss, takes_targets

WRAPPED: Mapping[type, str] = {
    nn.DataParallel: "the network inside, its .module",
    DistributedDataParallel: "the network inside, its .module",
    torch.jit.ScriptModule: "the module that it was made of: TorchScript has no layers to cut",
}
"""Modules that stand for another one -> what to give instead."""

FEW = 2


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


def check_loss_given(loss: object) -> None:
    """Refuse what is neither a function nor the name of a loss.

    Raises:
        UsageError: saying what is known.
    """
    if isinstance(loss, str):
        check_name(loss)
    else:
        check_callable(loss=loss)  # type: ignore[arg-type]


def fitting_data(
    model: nn.Module, samples: Samples, scoring: Scoring, loss: Loss | str | None, forward: Forward | None
) -> Samples:
    """Return samples with the loss that fits, once the network runs on them and it takes their targets.

    Targets are looked at only where the score takes their loss, and inputs only where no ``forward`` of the
    caller's own may do with them what it likes.

    Args:
        model: the network; it is left as it is.
        samples: the caller's own, put through the network as they are.
        scoring: how channels are scored.
        loss: the caller's own, the name of one, or None.
        forward: the caller's own, or None.

    Raises:
        InputError: inputs or targets don't fit, or a loss can't be told; saying which.
    """
    name = None if callable(loss) else loss
    chooses = not callable(loss) and takes_loss(scoring)
    if forward is not None and not chooses:
        return samples
    layers, output = _output(model, samples)
    if not chooses:
        return samples
    if not takes_targets(samples, scoring):
        _, tensor = part_of(output)
        if len(class_axes(tensor, samples.batches[0].target)) != 1:
            return fitted_by_layers(samples, output, layers)
        return fitted(samples, output, name)
    chosen = fitted(samples, output, name)
    _, tensor = part_of(output)
    for batch in samples.batches:
        _check_classes(batch.target, tensor)
    return chosen


def _check_classes(target: Tensor, output: Tensor) -> None:
    """Refuse classes that the network has no output for."""
    axes = [] if target.is_floating_point() else class_axes(output, target)
    if not axes:
        return
    classes, present = output.shape[axes[0]], target[target != IGNORED]
    if classes < 2 or not len(present) or 0 <= present.min() <= present.max() < classes:
        return
    raise InputError(
        f"the targets of data go from {present.min()} to {present.max()} and the network has {classes} "
        f"outputs; expected classes from 0 to {classes - 1}, or loss= for other targets"
    )


def _output(model: nn.Module, samples: Samples) -> tuple[Calls, Any]:
    """Run a network on a few inputs, with the graph that a loss is told by, and note the layers that ran."""
    few = tuple(x[:FEW] for x in samples.batches[0].inputs)
    try:
        with torch.enable_grad(), evaluating(model), buffers_kept(model), watched(model) as layers:
            return layers, samples.forward(model, few)
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
