"""Settings, and calls of a network in one: its inputs, modes and seed.

A forward pass may take another way for a larger image, a larger batch, stronger activations, while gradients
are recorded or in training mode. Each setting is one call that takes such a way.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from structprune.choices import BatchNormMode
from structprune.nn.batch_norm import buffers_kept, evaluating
from structprune.nn.outputs import tensors_of
from structprune.nn.precision import cast_inputs, doubles_kept, exact_arithmetic
from structprune.proofs.comparison.gap import Inputs, gap
from structprune.proofs.comparison.inert import undrawn

SEEDS, NOISE = 4, 1e-6
"""Seeds under which a network that draws puts out something else, and by how much of the largest output."""

CHAOS = 1e-2
"""max|a - b| / max|b| above which outputs of two roundings of an input say nothing."""


@dataclass(frozen=True)
class Setting:
    """One way to call a network.

    Attributes:
        words: what it is, for a sentence: ``inputs times 10``.
        inputs: positional inputs.
        gradients: whether operations are recorded for gradients.
        training: whether modules are in training mode; dropout and drop-path draw nothing then.
        batch_norm: whose statistics normalise outside training mode.
        seed: of whatever the network draws.
    """

    words: str
    inputs: Inputs
    gradients: bool = False
    training: bool = False
    batch_norm: BatchNormMode = "fixed"
    seed: int = 0

    @property
    def of_batch(self) -> bool:
        """Whether batch norms take the statistics of the inputs."""
        return self.training or self.batch_norm == "batch"


def cast(setting: Setting, dtype: torch.dtype) -> Setting:
    """The same setting in another precision."""
    return replace(setting, inputs=cast_inputs(setting.inputs, dtype))


def nudged(setting: Setting) -> Setting:
    """The same setting, its inputs rounded otherwise."""
    return replace(setting, inputs=tuple(_nudged(x) for x in setting.inputs))


def _nudged(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        return x
    # Not all in one direction, which a norm would take back.
    signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign().to(x)
    return x * (1 + 4 * torch.finfo(x.dtype).eps * signs)


@contextmanager
def in_setting(model: nn.Module, setting: Setting) -> Iterator[None]:
    """Put a network, a copy, into a setting's mode while the block runs."""
    for parameter in model.parameters() if setting.gradients else ():
        parameter.requires_grad_(parameter.is_floating_point())  # those of a frozen network, too
    with ExitStack() as stack:
        stack.enter_context(_seeded(setting.seed))
        stack.enter_context(torch.set_grad_enabled(setting.gradients))
        stack.enter_context(exact_arithmetic())
        stack.enter_context(doubles_kept(model))
        stack.enter_context(evaluating(model, setting.batch_norm))
        if setting.training:
            model.train()
            stack.enter_context(undrawn(model))
        yield


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed whatever a network may draw from while the block runs, and put all states back."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:  # else torch would keep the seed, with a traceback, for when there is one
            torch.cuda.manual_seed_all(seed)
        random.seed(seed)
        np.random.seed(seed)  # networks draw from the old generator
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def called_in(model: nn.Module, call: Callable[..., Any], setting: Setting) -> Any:
    """Return what a call puts out in a setting, its buffers as before; None where it raises."""
    with buffers_kept(model):
        return kept_in(model, call, setting)


def kept_in(model: nn.Module, call: Callable[..., Any], setting: Setting) -> Any:
    """Return what a call puts out in a setting; None where it raises. What it writes to buffers stays."""
    try:
        with in_setting(model, setting):
            return call(*(x.clone() for x in setting.inputs))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a size that the network does not take, targets that training wants
        return None


def are_finite(outputs: Any) -> bool:
    """Tell whether a network has run and put out numbers, or -inf where it leaves some out."""
    if outputs is None:
        return False
    real = [x for x in tensors_of(outputs) if x.is_floating_point() and x.numel()]
    return all(bool((torch.isfinite(x) | (x == -torch.inf)).all() & torch.isfinite(x).any()) for x in real)


def draws(model: nn.Module, setting: Setting) -> bool:
    """Tell whether fresh copies of a network put out something else for another seed."""
    copies = [copy.deepcopy(model) for _ in range(SEEDS)]
    outputs = [called_in(net, net, replace(setting, seed=seed)) for seed, net in enumerate(copies)]
    return any(gap(outputs[0], others).error > NOISE for others in outputs[1:])


def is_chaotic(model: nn.Module, setting: Setting) -> bool:
    """Tell whether rounding of inputs changes outputs a lot: a norm may take statistics of few values."""
    outputs, others = (called_in(model, model, each) for each in (setting, nudged(setting)))
    return gap(outputs, others).error > CHAOS
