"""One epoch of a training that is made of several, each of them the same whoever ran the one before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from structprune.data import classification
from structprune.data.batches import Batches
from structprune.errors import InputError
from structprune.nn.layers import batch_norms
from structprune.training.augment import random_mirror, random_shift
from structprune.training.optimiser import Recipe, set_rate

Progress = Callable[[int, int, float], None]
Share = tuple[int, int]
"""Which of how many processes this one is: each trains on its part of every batch."""


@dataclass(frozen=True)
class EpochPlan:
    """One epoch.

    Attributes:
        number: of the epoch in the whole training, from 0; order, augmentation and dropout depend on it
            and on the seed alone, so that a training can go on from any epoch.
        first: steps of the current schedule that are done.
        steps: steps of the current schedule in all.
        recipe: rate, decay, clipping.
        seed: of everything random.
        constant: whether the rate stays at the recipe's steady share.
        l1: strength of the penalty on the sum of absolute batch-norm scales.
        precision: of the forward pass; weights, gradients and the optimiser are in float32.
        share: which part of every batch this process takes.
    """

    number: int
    first: int
    steps: int
    recipe: Recipe
    seed: int
    constant: bool = False
    l1: float = 0.0
    precision: str = "float32"
    share: Share = (0, 1)


def steps_of(batches: Batches, processes: int = 1) -> int:
    """Count the steps of one epoch; a last batch that leaves a process one image is left out.

    Batch norm can't train on one.
    """
    last = len(batches.images) % batches.batch_size
    return len(batches) - (0 < last < 2 * processes)


def train_epoch(
    model: nn.Module,
    chosen: Optimizer,
    batches: Batches,
    plan: EpochPlan,
    progress: Progress = lambda *_: None,
) -> float:
    """Train for one epoch in place and return the mean loss.

    Raises:
        InputError: the loss is not finite.
    """
    device = next(model.parameters()).device
    steps, losses = steps_of(batches, plan.share[1]), []
    held = [p for group in chosen.param_groups for p in group["params"]]
    scales = [layer.weight for _, layer in batch_norms(model) if layer.affine] if plan.l1 else []
    model.train()
    with _seeded(plan, device):
        for step, (images, labels, weight) in enumerate(_shuffled(batches, plan)):
            set_rate(chosen, plan.recipe, plan.first + step, plan.steps, plan.constant)
            model.zero_grad(set_to_none=True)  # also of what this optimiser doesn't train
            with _precision(plan, device):
                loss = classification.loss(model(images.to(device)), labels.to(device)) * weight
            penalty = plan.l1 * torch.stack([s.abs().sum() for s in scales]).sum() if scales else 0.0
            (loss.float() + penalty).backward()  # type: ignore[no-untyped-call]
            if plan.recipe.clip is not None:
                nn.utils.clip_grad_norm_(held, plan.recipe.clip)
            chosen.step()
            losses.append(_finite(loss.item(), plan))
            progress(step + 1, steps, losses[-1])
    model.zero_grad(set_to_none=True)
    model.eval()
    return sum(losses) / len(losses)


def _finite(loss: float, plan: EpochPlan) -> float:
    if not math.isfinite(loss):
        raise InputError(
            f"the loss became {loss} in epoch {plan.number + 1}; try a learning rate below {plan.recipe.lr}"
        )
    return loss


def _shuffled(batches: Batches, plan: EpochPlan) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield this process's part of every batch, and what makes the mean over processes one over images."""
    generator = torch.Generator().manual_seed(_seed(plan))
    order = torch.randperm(len(batches.images), generator=generator)
    rank, size = plan.share
    for chosen in torch.split(order, batches.batch_size)[: steps_of(batches, size)]:
        images, labels = batches.batch(chosen.numpy())
        images = random_shift(images, generator)
        if batches.images.mirrors:
            images = random_mirror(images, generator)
        part = slice(rank * len(labels) // size, (rank + 1) * len(labels) // size)
        yield images[part], labels[part], len(labels[part]) * size / len(labels)


def _seed(plan: EpochPlan) -> int:
    # Far apart, so that no epoch of one seed is an epoch of another.
    return (1_000_003 * plan.seed + plan.number) % 2**63


def _precision(plan: EpochPlan, device: torch.device) -> AbstractContextManager[object]:
    if plan.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, plan.precision))


@contextmanager
def _seeded(plan: EpochPlan, device: torch.device) -> Iterator[None]:
    """Seed torch for dropout, and put its random state back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed((_seed(plan) + 7919 * plan.share[0]) % 2**63)
        yield
