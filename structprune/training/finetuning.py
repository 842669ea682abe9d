"""The training loop: regain after a cut what can be regained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from structprune.data.batches import Batch, Batches
from structprune.errors import InputError, UsageError
from structprune.nn.devices import device_of, named_device, on_device
from structprune.training.augment import random_mirror, random_shift
from structprune.training.distillation import CLIP, LossOf, labelled, taught_by
from structprune.training.optimiser import Recipe, optimiser, schedule

Progress: TypeAlias = Callable[[int, int, float], None]
"""Called after every step with the steps done, the steps in all, and the loss."""


def finetune(
    model: nn.Module,
    batches: Batches,
    epochs: int,
    *,
    recipe: Recipe | None = None,
    mirror: bool | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    teacher: nn.Module | None = None,
) -> None:
    """Train a network in place: SGD with Nesterov momentum, one cycle of the learning rate, cross entropy.

    Images are shuffled anew in every epoch, shifted by up to an eighth of their sides and, where that keeps
    their label, mirrored. Two runs with the same seed and thread count on a CPU give the same weights bit by
    bit. Afterwards the global random state is as before, and the network is in evaluation mode on its old
    device.

    Args:
        model: puts out class scores (N,K).
        batches: what to train on, from :func:`structprune.data.to_batches`; its batch size is a step's.
        epochs: how often every image is seen; 0 changes nothing but the mode.
        recipe: optimiser, peak rate, momentum, decay and clipping; its rate is one cycle over all steps, and
            batch size and epochs are those given here.
        mirror: whether to mirror images; by default as the data say.
        seed: of order, augmentation and dropout.
        device: where to train; by default where the network is.
        progress: told of every step.
        teacher: a network of the same classes whose outputs are learned beside the labels; it stays as it is.
            Gradients are clipped then. See :mod:`structprune.training.distillation`.

    Raises:
        InputError: fewer than two images, nothing to train, a label out of range, or a loss not finite.
        UsageError: a negative number of epochs, one image a step, or a device that torch doesn't know.
        DeviceUnavailableError: the device is not there.
    """
    _check(batches, epochs)
    chosen = device_of(model) if device is None else named_device(device)
    mirror = batches.images.mirrors if mirror is None else mirror
    with on_device(model, chosen), _there(teacher, chosen), _training(model), _seeded(seed, chosen):
        _train(
            model,
            _epochs(batches, epochs, mirror, seed),
            epochs * _steps(batches),
            _clipped(recipe or Recipe(), teacher),
            progress,
            labelled if teacher is None else taught_by(teacher),
        )


def _clipped(recipe: Recipe, teacher: nn.Module | None) -> Recipe:
    return replace(recipe, clip=CLIP) if teacher is not None and recipe.clip is None else recipe


def _there(teacher: nn.Module | None, device: torch.device) -> AbstractContextManager[object]:
    return nullcontext() if teacher is None else on_device(teacher, device)


def _check(batches: Batches, epochs: int) -> None:
    if epochs < 0:
        raise UsageError(f"{epochs} epochs of fine-tuning; expected 0 or more")
    if batches.batch_size < 2:
        raise UsageError("batch size 1 for training; expected 2 or more, as batch norm needs several images")
    if len(batches.images) < 2:
        raise InputError(f"{batches.images.name} has too few images to train on; expected 2 or more")


def _train(
    model: nn.Module,
    batches: Iterator[Batch],
    steps: int,
    recipe: Recipe,
    progress: Progress | None,
    loss_of: LossOf,
) -> None:
    sgd = optimiser(model, recipe)
    rate = schedule(sgd, steps)
    device = device_of(model)
    for done, (images, labels) in enumerate(batches, start=1):
        loss = _step(model, sgd, loss_of(model, images.to(device), labels.to(device)), recipe.clip)
        if not math.isfinite(loss):
            raise InputError(
                f"the loss became {loss} in step {done} of {steps}; try a learning rate below {recipe.lr}"
            )
        rate.step()
        if progress is not None:
            progress(done, steps, loss)


def _step(model: nn.Module, sgd: Optimizer, loss: Tensor, clip: float | None) -> float:
    sgd.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    sgd.step()
    return loss.item()


def _epochs(batches: Batches, epochs: int, mirror: bool, seed: int) -> Iterator[Batch]:
    """Yield every step's images and labels, but no last batch of one: batch norm can't train on it."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(batches.images), generator=generator)
        for chosen in torch.split(order, batches.batch_size)[: _steps(batches)]:
            images, labels = batches.batch(chosen.numpy())
            yield _augmented(images, mirror, generator), labels


def _augmented(images_NCHW: Tensor, mirror: bool, generator: Generator) -> Tensor:
    shifted = random_shift(images_NCHW, generator)
    return random_mirror(shifted, generator) if mirror else shifted


def _steps(batches: Batches) -> int:
    """Count the steps of one epoch."""
    return len(batches) - (len(batches.images) % batches.batch_size == 1)


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    model.train()
    try:
        yield
    finally:
        model.eval()
        model.zero_grad(set_to_none=True)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for dropout, and put its random state back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
