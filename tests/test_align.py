from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import structprune
from structprune.channels import ChannelGroups, channel_groups
from structprune.errors import TargetUnreachableError, UsageError
from structprune.hardware import (
    LEAST_SCORE,
    LEAST_WIDTH,
    Layers,
    compare,
    device_layers,
    layer_calls,
    select_for,
)
from structprune.limits.iterative import choose
from structprune.pruning.budget import Budget, Plan, reachable, select
from structprune.pruning.surgery import shrink
from structprune.scoring.samples import random_samples
from structprune.scoring.score import Scoring
from structprune.workflows.reporting import nodes_gone
from tests.device_profiles import made_up
from tests.networks import TinyResidualConcat
from tests.oracles import widths as oracle

# ------------------------------------------------------------------------------------------------ networks


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 10, 1),
        nn.ReLU(),
        nn.Conv2d(10, 9, 3, padding=1, stride=2),
        nn.Flatten(),
        nn.Linear(9 * 16, 3),
    )


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 11, 1), nn.Conv2d(11, 11, 3, padding=1, groups=11), nn.Conv2d(11, 14, 1), nn.Flatten(),
        nn.Linear(14 * 64, 3),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(24, 7, 1), nn.Flatten(), nn.Linear(7 * 64, 3),
    )  # fmt: skip


NETWORKS = {"plain": plain, "depthwise": depthwise, "grouped": grouped, "residual": TinyResidualConcat}


@dataclass(frozen=True)
class Case:
    model: nn.Module
    x: Tensor
    groups: ChannelGroups
    layers: Layers

    def scores(self, seed: int) -> dict[str, Tensor]:
        draws = torch.Generator().manual_seed(seed)
        return {g.name: torch.rand(g.size, generator=draws, dtype=torch.float64) for g in self.groups}

    def widths(self, plan: Plan) -> dict[str, int]:
        return {name: int(keep.sum()) for name, keep in plan.keep.items()}


@pytest.fixture(scope="module", params=list(NETWORKS))
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    model = NETWORKS[request.param]().eval()
    x = torch.randn(2, 3, 8, 8)
    groups = channel_groups(model, x)
    return Case(model, x, groups, device_layers(model, (x,), groups, made_up()))


def kept(scores: dict[str, Tensor], plan: Plan) -> float:
    return sum(float(scores[name][keep].sum()) for name, keep in plan.keep.items())


# ------------------------------------------------------------------------------------------------ the times


@pytest.mark.parametrize("seed", range(6))
def test_the_time_is_that_of_the_layers_of_the_shrunk_network(case: Case, seed: int) -> None:
    scores = case.scores(seed)
    plan = select(scores, case.groups, Budget(0.1 * (seed + 1)))
    small = shrink(case.model, case.groups, plan)
    both = compare(case.layers, scores, case.groups, plan, plan)
    assert both.us[0] == pytest.approx(oracle.time_of(small, case.x, made_up()))
    assert both.kept == 1


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_a_recurrent_layer_takes_a_product_for_each_of_its_gates(kind: type[nn.Module], gates: int) -> None:
    (call,) = layer_calls(kind(6, 5, batch_first=True), (torch.randn(2, 7, 6),))
    assert (call.kind, call.pixels) == ("linear", 7 * gates)


def test_reading_the_layers_leaves_the_network_as_it_was() -> None:
    model = plain().train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    calls = layer_calls(model, (torch.randn(2, 3, 8, 8),))
    assert [(call.kind, call.pixels) for call in calls] == [
        ("3x3", 64),
        ("1x1", 64),
        ("3x3", 16),
        ("linear", 1),
    ]
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


# ----------------------------------------------------------------------------------------------- the choice


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("remove", [0.2, 0.6])
def test_the_choice_is_that_of_all_widths_tried(case: Case, remove: float, seed: int) -> None:
    scores, budget = case.scores(seed), Budget(remove, every_group=False)
    free = select(scores, case.groups, budget)
    plan = select_for(case.layers, scores, case.groups, budget)
    found = compare(case.layers, scores, case.groups, free, plan)
    best = oracle.least_fraction(case.layers, scores, case.groups, budget, free)
    fraction = found.us[1] / kept(scores, plan)
    assert best * (1 - 1e-9) <= fraction <= 1.05 * best


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("remove", [0.0, 0.15, 0.35, 0.6, 0.8])
@pytest.mark.parametrize("floor", [0.02, 0.2])
def test_it_holds_what_select_holds(case: Case, remove: float, floor: float, seed: int) -> None:
    budget = Budget(remove, floor=floor)
    if remove > reachable(case.groups, budget):
        return
    scores = case.scores(seed)
    free = select(scores, case.groups, budget)
    plan = select_for(case.layers, scores, case.groups, budget)
    assert nodes_gone(case.groups, plan) == nodes_gone(case.groups, free)
    assert (plan.budget, plan.reached) == (budget, free.reached)
    found = compare(case.layers, scores, case.groups, free, plan)
    assert found.us[1] <= found.us[0]
    assert found.kept >= LEAST_SCORE
    for group in case.groups:
        width, before = case.widths(plan)[group.name], case.widths(free)[group.name]
        assert width >= max(1, floor * group.size - 1e-9, LEAST_WIDTH * before)
        parts = plan.keep[group.name].reshape(group.divisor, -1).sum(1)
        assert len(set(parts.tolist())) == 1
        worst_kept = scores[group.name].reshape(group.divisor, -1)
        for stays, values in zip(plan.keep[group.name].reshape(group.divisor, -1), worst_kept, strict=True):
            assert not stays.any() or stays.all() or values[stays].min() >= values[~stays].max()


def test_it_is_the_same_every_time(case: Case) -> None:
    plans = [select_for(case.layers, case.scores(0), case.groups, Budget(0.5)) for _ in range(2)]
    assert all(torch.equal(plans[0].keep[name], plans[1].keep[name]) for name in plans[0].keep)


def test_it_reaches_whatever_is_reachable_without_alignment(case: Case) -> None:
    most = reachable(case.groups, Budget(0.0))
    scores, budget = case.scores(1), Budget(most)
    free = select(scores, case.groups, budget)
    assert nodes_gone(case.groups, select_for(case.layers, scores, case.groups, budget)) == nodes_gone(
        case.groups, free
    )
    with pytest.raises(TargetUnreachableError, match="can't be reached"):
        select_for(case.layers, scores, case.groups, Budget(min(0.999, most + 0.05)))


def test_negative_scores_count_from_the_least(case: Case) -> None:
    scores = case.scores(2)
    lower = {name: x - 10 for name, x in scores.items()}
    plan = select_for(case.layers, lower, case.groups, Budget(0.5))
    free = select(lower, case.groups, Budget(0.5))
    found = compare(case.layers, lower, case.groups, free, plan)
    assert found.us[1] <= found.us[0]
    assert found.kept >= LEAST_SCORE


def test_what_left_in_an_earlier_step_stays_gone() -> None:
    model, x = plain().eval(), torch.randn(4, 3, 8, 8)
    groups = channel_groups(model, x)
    layers = device_layers(model, (x,), groups, made_up())
    plans: list[Plan] = []

    def pick(scores: dict[str, Tensor], groups: ChannelGroups, budget: Budget) -> Plan:
        plans.append(select_for(layers, scores, groups, budget))
        return plans[-1]

    samples = random_samples(model, (x,), 4)
    scoring = Scoring("magnitude", steps=3)
    plan = choose(model, groups, samples, scoring, Budget(0.6), pick=pick).plan  # type: ignore[arg-type]
    assert len(plans) == 3
    for before, after in itertools.pairwise(plans):
        assert all(not (after.keep[name] & ~keep).any() for name, keep in before.keep.items())
    assert nodes_gone(groups, plan) == round(0.6 * groups.nodes)


# -------------------------------------------------------------------------------------------- from Python

compress = partial(structprune.compress, score="magnitude", export=False, samples=8)


def test_python_chooses_by_a_profile_and_says_so() -> None:
    torch.manual_seed(0)
    model, x = plain(), torch.randn(4, 3, 8, 8)
    free, auto = compress(model, x, 0.5), compress(model, x, 0.5, align="auto", profile=made_up())
    assert auto.report.nodes.after == free.report.nodes.after
    assert all(proof.passed for proof in auto.report.proofs)
    (chosen,) = [note for note in auto.report.notes if "widths chosen by the profile made-up" in note]
    assert "another processor than this one" in chosen
    assert any("modelled time" in note and "of its score" in note for note in auto.report.notes)
    assert not any("profile" in note for note in free.report.notes)


def test_limits_are_met_at_the_widths_that_a_device_likes() -> None:
    torch.manual_seed(0)
    model, x = plain(), torch.randn(4, 3, 8, 8)
    limits = {"params": "50%", "flops": "60%"}
    auto = compress(model, x, limits=limits, align="auto", profile=made_up())
    assert auto.report.parameters.removed >= 0.5
    assert [met.name for met in auto.report.limits] == list(limits)
    assert all(met.reached <= met.bound for met in auto.report.limits)
    assert all(proof.passed for proof in auto.report.proofs)
    groups = channel_groups(model, x)
    layers = device_layers(model, (x,), groups, made_up())
    picked = select_for(layers, auto.scores.values, groups, auto.plan.budget)
    assert all(torch.equal(auto.plan.keep[name], keep) for name, keep in picked.keep.items())
    free = select(auto.scores.values, groups, auto.plan.budget)
    assert any(not torch.equal(keep, picked.keep[name]) for name, keep in free.keep.items())
    assert any("widths chosen by the profile made-up" in note for note in auto.report.notes)


def test_a_number_aligns_as_before() -> None:
    torch.manual_seed(0)
    model, x = plain(), torch.randn(4, 3, 8, 8)
    groups = channel_groups(model, x)
    done = compress(model, x, 0.3, align=2)
    scores = done.scores.values
    expected = select(scores, groups, replace(done.plan.budget, align=2))
    assert all(torch.equal(done.plan.keep[name], keep) for name, keep in expected.keep.items())
    assert done.plan.budget.align == 2


@pytest.mark.parametrize(
    "options", [{"align": "16"}, {"align": 4, "profile": made_up()}, {"profile": "x.json"}]
)
def test_python_refuses_what_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="'auto'"):
        compress(plain(), torch.randn(4, 3, 8, 8), 0.5, **options)
