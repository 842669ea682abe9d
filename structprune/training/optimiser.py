"""The optimiser and its learning rate over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from structprune.errors import InputError

# The shape of Smith's one-cycle policy (arXiv:1708.07120) with the proportions that torch has for it.
WARM_UP = 0.3
START = 1 / 25
END = START / 1e4


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        lr: the learning rate at its peak; 0.03 regained most on a pruned CIFAR-10 ResNet-20.
        momentum: of SGD, in Nesterov's form.
        weight_decay: on weights; biases and normalisations have none.
    """

    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 5e-4


def optimiser(model: nn.Module, recipe: Recipe) -> SGD:
    """Return SGD on every parameter that requires a gradient.

    Raises:
        InputError: no parameter does.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("no parameter of the network requires a gradient, so there is nothing to train")
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    nesterov = recipe.momentum > 0
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)


def schedule(sgd: SGD, steps: int) -> LambdaLR:
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
