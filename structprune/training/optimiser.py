"""The optimiser and its learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from structprune.errors import InputError

# The shape of Smith's one-cycle policy (arXiv:1708.07120) with the proportions that torch has for it.
WARM_UP = 0.3
START = 1 / 25
END = START / 1e4
HIGH_MOMENTUM, LOW_MOMENTUM = 0.95, 0.85


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        lr: the learning rate at its peak; 0.03 regained most on a pruned CIFAR-10 ResNet-20.
        momentum: of SGD; Adam's first moment.
        weight_decay: on weights; biases and normalisations have none, unless ``decays_all``.
        kind: of the optimiser.
        nesterov: whether SGD's momentum is Nesterov's.
        decays_all: whether the decay is on every parameter, as the papers' codes have it.
        drops: fractions of the training after which the rate falls to a tenth; none: one cycle.
        cycles_momentum: whether momentum falls where the rate rises, as torch's one-cycle schedule has it.
        steady: of the peak rate, in the constant phase before an early cut.
        clip: largest norm of the gradient, or None.
        batch_size: images in a step.
        epochs: how often every image is seen, where nobody says otherwise.
    """

    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 5e-4
    kind: Literal["sgd", "adam"] = "sgd"
    nesterov: bool = True
    decays_all: bool = False
    drops: tuple[float, ...] = ()
    cycles_momentum: bool = False
    steady: float = 1.0
    clip: float | None = None
    batch_size: int = 128
    epochs: int = 30


def optimiser(model: nn.Module, recipe: Recipe, only: Callable[[str], bool] = lambda _: True) -> SGD | Adam:
    """Return an optimiser of every parameter that requires a gradient.

    Args:
        model: the network.
        recipe: rate, momentum, decay.
        only: tells from a parameter's name whether it is to be trained.

    Raises:
        InputError: no parameter is.
    """
    named = model.named_parameters()
    trained = [parameter for name, parameter in named if parameter.requires_grad and only(name)]
    if not trained:
        raise InputError("no parameter of the network requires a gradient, so there is nothing to train")
    least = 0 if recipe.decays_all else 1
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > least], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.dim() <= least], "weight_decay": 0.0},
    ]
    if recipe.kind == "adam":
        return Adam(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    return SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov and recipe.momentum > 0
    )


def set_rate(chosen: Optimizer, recipe: Recipe, step: int, steps: int, constant: bool = False) -> None:
    """Set learning rate, and momentum where it cycles, for ``step`` of 0 ... steps - 1."""
    share = recipe.steady if constant else rate_share(recipe, step, steps)
    for group in chosen.param_groups:
        group["lr"] = recipe.lr * share
        if recipe.cycles_momentum and recipe.kind == "adam" and not constant:
            group["betas"] = (HIGH_MOMENTUM - (HIGH_MOMENTUM - LOW_MOMENTUM) * share, group["betas"][1])


def rate_share(recipe: Recipe, step: int, steps: int) -> float:
    """Return the fraction of the peak learning rate at ``step`` of 0 ... steps - 1.

    Example:
        >>> [rate_share(Recipe(drops=(0.5, 0.75)), step, 4) for step in range(4)]
        [1.0, 1.0, 0.1, 0.01]
    """
    if not recipe.drops:
        return one_cycle(step, steps)
    return float(round(0.1 ** sum(step >= drop * steps for drop in recipe.drops), 12))


def schedule(sgd: Optimizer, steps: int) -> LambdaLR:
    """Return a learning rate that goes through one cycle in ``steps`` steps."""
    return LambdaLR(sgd, lambda step: one_cycle(step, steps))


def one_cycle(step: int, steps: int) -> float:
    """Return the fraction of the peak learning rate at ``step`` of 0 ... steps - 1.

    Half a cosine from 1/25 up to 1 in the first 30 % of the steps, then half a cosine down to nearly 0.

    Example:
        >>> [round(one_cycle(step, 11), 2) for step in range(11)]
        [0.04, 0.42, 0.96, 0.98, 0.88, 0.73, 0.53, 0.33, 0.16, 0.04, 0.0]
    """
    top = WARM_UP * steps - 1
    if step <= top:
        return _cosine(START, 1, step / top)
    return _cosine(1, END, (step - top) / max(steps - 1 - top, 1))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
