"""Batch-norm statistics: whose they are, and one pass that takes them without touching the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from structprune.choices import BatchNormMode
from structprune.nn.layers import batch_norms

Statistics = dict[str, Tensor]
"""Buffer name -> tensor, for every buffer of every batch norm."""


@contextmanager
def evaluating(model: nn.Module, batch_norm: BatchNormMode = "fixed") -> Iterator[None]:
    """Put the model into evaluation mode, its batch norms as asked, and put everything back.

    Args:
        model: the network; its modules' modes are as they were when the block ends, however it ends.
        batch_norm: ``fixed`` normalises with running statistics, ``batch`` with those of each batch.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        if batch_norm == "batch":
            for _, layer in batch_norms(model):
                layer.training = True
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Let forward passes write to copies of the network's buffers, and put its own back."""
    # Those of a lazy module are made by its first forward pass, and stay.
    own = [
        (module, key, buffer)
        for module in model.modules()
        for key, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    try:
        for module, key, buffer in own:
            module._buffers[key] = buffer.clone()
        yield
    finally:
        for module, key, buffer in own:
            module._buffers[key] = buffer


@contextmanager
def _cumulative(model: nn.Module) -> Iterator[None]:
    """Let running statistics be the plain mean over batches (torch's momentum None), then restore."""
    momenta = {layer: layer.momentum for _, layer in batch_norms(model)}
    try:
        for layer in momenta:
            layer.momentum = None
        yield
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum


def initial_statistics(model: nn.Module) -> Statistics:
    """Return buffers of batch norms that have seen nothing: mean 0, variance 1, no batches."""
    fresh: Statistics = {}
    for name, layer in batch_norms(model):
        for key, buffer in layer.named_buffers(recurse=False):
            full = torch.ones_like if key == "running_var" else torch.zeros_like
            fresh[f"{name}.{key}"] = full(buffer)
        # A checkpoint may lack the counter, torch's cumulative mean needs it.
        fresh.setdefault(f"{name}.num_batches_tracked", torch.tensor(0))
    return fresh


def collect_statistics(
    model: nn.Module, forward: Callable[[Mapping[str, Tensor], Any], object], batches: Iterable[Any]
) -> Statistics:
    """Take batch-norm statistics of some inputs: the mean over batches, on buffers of their own.

    Args:
        model: the network; neither its buffers nor its modes change.
        forward: runs the network on one batch with the buffers that it is given.
        batches: the inputs. The result depends on how they are split into batches, which is why these
            are mini-batches and never the chunks that only save memory.

    Returns:
        Buffers of every batch norm: means, unbiased variances and the count.
    """
    statistics = initial_statistics(model)
    with torch.no_grad(), evaluating(model, "batch"), _cumulative(model):
        for batch in batches:
            forward(statistics, batch)
    return statistics


def were_trained(model: nn.Module) -> bool | None:
    """Tell whether batch norms have seen data; None for a network without any."""
    layers = [layer for _, layer in batch_norms(model)]
    if not layers:
        return None
    return any(_has_moved(layer) for layer in layers)


def _has_moved(layer: nn.Module) -> bool:
    assert isinstance(layer.running_mean, Tensor)
    assert isinstance(layer.running_var, Tensor)
    return bool((layer.running_mean != 0).any() or (layer.running_var != 1).any())
