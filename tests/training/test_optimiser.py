from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from structprune.errors import InputError
from structprune.training.optimiser import Recipe, one_cycle, optimiser, schedule
from tests.networks import TinyConvBN


def rates(sgd: SGD, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    seen = []
    for step in range(steps):
        seen.append(float(sgd.param_groups[0]["lr"]))
        sgd.step()
        if step < steps - 1:
            scheduler.step()
    return seen


@pytest.mark.parametrize("steps", [2, 3, 4, 10, 11, 97])
def test_one_cycle_is_torchs(steps: int) -> None:
    ours, theirs = (SGD([nn.Parameter(torch.zeros(1))], lr=0.3) for _ in range(2))
    expected = rates(theirs, OneCycleLR(theirs, 0.3, total_steps=steps, cycle_momentum=False), steps)
    assert rates(ours, schedule(ours, steps), steps) == pytest.approx(expected)


def test_one_cycle_of_a_single_step_is_finite() -> None:
    assert 0 < one_cycle(0, 1) <= 1


def test_only_weights_decay() -> None:
    model = TinyConvBN()
    decays = {
        id(p): group["weight_decay"]
        for group in optimiser(model, Recipe()).param_groups
        for p in group["params"]
    }
    for name, parameter in model.named_parameters():
        is_weight = name in {"conv1.weight", "conv2.weight", "head.weight"}
        assert decays[id(parameter)] == (5e-4 if is_weight else 0)


def test_frozen_parameters_stay_out() -> None:
    model = TinyConvBN()
    model.conv1.requires_grad_(False)
    trained = [p for group in optimiser(model, Recipe()).param_groups for p in group["params"]]
    assert len(trained) == len(list(model.parameters())) - 1
    with pytest.raises(InputError, match="nothing to train"):
        optimiser(model.requires_grad_(False), Recipe())
