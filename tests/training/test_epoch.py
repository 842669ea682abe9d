from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from structprune.errors import InputError
from structprune.training import RECIPES, Recipe, evaluate
from structprune.training.epoch import EpochPlan, steps_of, train_epoch
from structprune.training.optimiser import optimiser, rate_share, set_rate
from tests.networks import TinyConvBN
from tests.oracles.state import changed, world
from tests.training.test_loop import bright_channel, same

PLAN = EpochPlan(number=0, first=0, steps=8, recipe=Recipe(lr=0.05), seed=0)


def trained(plan: EpochPlan = PLAN, epochs: int = 1) -> nn.Module:
    torch.manual_seed(0)
    model, batches = TinyConvBN(), bright_channel(120)
    chosen = optimiser(model, plan.recipe)
    for number in range(epochs):
        train_epoch(model, chosen, batches, replace(plan, number=number, first=8 * number, steps=8 * epochs))
    return model


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_learns(name: str) -> None:
    model = trained(replace(PLAN, recipe=RECIPES[name]), epochs=6)
    assert evaluate(model, bright_channel(60)) > 0.6


def test_an_epoch_depends_on_its_number_and_seed_alone() -> None:
    assert same(trained(), trained())
    assert not same(trained(), trained(replace(PLAN, seed=1)))


def test_the_random_state_is_as_before() -> None:
    model, batches = TinyConvBN(), bright_channel(40)
    chosen = optimiser(model, PLAN.recipe)
    before = world()
    train_epoch(model, chosen, batches, PLAN)
    assert changed(before, world()) == []


def test_a_penalty_on_scales_makes_them_smaller() -> None:
    plain, penalised = trained(epochs=3), trained(replace(PLAN, l1=0.5), epochs=3)
    norms = [
        sum(float(m.weight.detach().abs().sum()) for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        for model in (plain, penalised)
    ]
    assert norms[1] < 0.9 * norms[0]


def test_parts_of_a_batch_are_weighted_by_their_size() -> None:
    """Without batch norm, the mean over processes of their gradients is that of the whole batch."""
    torch.manual_seed(0)
    start = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    batches = bright_channel(15, batch_size=15)
    after = []
    for share in ((0, 1), (0, 2), (1, 2)):
        model = copy.deepcopy(start)
        plan = replace(PLAN, share=share, recipe=Recipe(lr=0.1, momentum=0, weight_decay=0), constant=True)
        train_epoch(model, optimiser(model, plan.recipe), batches, plan)
        after.append(model.get_parameter("1.weight").detach())
    torch.testing.assert_close(after[0], (after[1] + after[2]) / 2)


@pytest.mark.parametrize(
    ("images", "processes", "steps"), [(32, 1, 2), (33, 1, 2), (34, 1, 3), (35, 2, 2), (36, 2, 3)]
)
def test_a_last_batch_too_small_to_share_is_left_out(images: int, processes: int, steps: int) -> None:
    assert steps_of(bright_channel(images), processes) == steps


def test_a_loss_that_explodes_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(InputError, match="learning rate below"):
        trained(replace(PLAN, recipe=Recipe(lr=1e30), constant=True), epochs=2)


def test_a_constant_rate() -> None:
    model = TinyConvBN()
    recipe = Recipe(lr=0.2, steady=0.5)
    chosen = optimiser(model, recipe)
    set_rate(chosen, recipe, 3, 10, constant=True)
    assert {group["lr"] for group in chosen.param_groups} == {0.1}


def test_rates_drop_where_the_recipe_says() -> None:
    recipe = RECIPES["ntk-sap-cifar10"]
    shares = [rate_share(recipe, epoch, 160) for epoch in (0, 79, 80, 119, 120, 159)]
    assert shares == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_momentum_falls_where_the_rate_rises() -> None:
    recipe = RECIPES["earlycrop"]
    chosen = optimiser(TinyConvBN(), recipe)
    seen = []
    for step in range(10):
        set_rate(chosen, recipe, step, 10)
        seen.append((chosen.param_groups[0]["lr"], chosen.param_groups[0]["betas"][0]))
    highest, lowest = max(seen), min(seen)
    assert highest[1] == pytest.approx(0.85)
    assert lowest[1] == pytest.approx(0.95, abs=0.005)


def test_the_papers_decay_is_on_everything() -> None:
    model = TinyConvBN()
    for recipe, everything in ((Recipe(), False), (RECIPES["earlybird"], True)):
        groups = optimiser(model, recipe).param_groups
        decayed = sum(len(group["params"]) for group in groups if group["weight_decay"] > 0)
        assert (decayed == len(list(model.parameters()))) == everything
