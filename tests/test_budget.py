from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from structprune.channels import ChannelGroup, ChannelGroups, Coupling
from structprune.errors import TargetUnreachableError, UsageError
from structprune.pruning.budget import Budget, Plan, reachable, removal_steps, select
from structprune.report.data import Protected
from tests.oracles import selection as oracle
from tests.oracles.selection import Row

# ---------------------------------------------------------------------------------------- random networks


@st.composite
def networks(draw: st.DrawFn, divisors: bool = False) -> list[Row]:
    """One to four groups, with scores that tie often."""
    rows = []
    for index in range(draw(st.integers(1, 4))):
        divisor = draw(st.sampled_from([1, 1, 2, 3])) if divisors else 1
        width = divisor * draw(st.integers(1, 12))
        scores = draw(st.lists(st.integers(0, 8), min_size=width, max_size=width))
        cost = draw(st.integers(1, 3))
        rows.append(Row(f"group{index}", tuple(score / 4 for score in scores), cost, divisor))
    return rows


def as_groups(rows: Sequence[Row], protected: int = 0) -> ChannelGroups:
    """Groups with as many producers as a channel costs nodes, and a protected layer."""
    groups: list[ChannelGroup] = []
    widths: dict[str, int] = {}
    for row in rows:
        every = tuple(range(len(row.scores)))
        layers = [f"{row.name}.{i}" for i in range(row.cost)]
        producers = tuple(Coupling(layer, every, every) for layer in layers)
        groups.append(ChannelGroup(row.name, len(every), producers, (), (), row.divisor))
        widths |= dict.fromkeys(layers, len(every))
    fixed = {"stem": protected} if protected else {}
    why = (Protected("stem", "its channels are split"),) if protected else ()
    return ChannelGroups(tuple(groups), why, {**fixed, **widths}, ("head",))


def as_scores(rows: Sequence[Row]) -> dict[str, Tensor]:
    return {row.name: torch.tensor(row.scores) for row in rows}


def kept(plan: Plan) -> dict[str, list[bool]]:
    return {name: mask.tolist() for name, mask in plan.keep.items()}


def budget_for(target: int, groups: ChannelGroups, floor: float = 0.02, align: int = 1) -> Budget:
    """The budget that asks for just so many nodes."""
    return Budget(target / groups.nodes, floor=floor, align=align, every_group=False)


fractions = st.floats(0, 0.999)
floors = st.sampled_from([0.0, 0.02, 0.1, 0.3])
aligns = st.sampled_from([1, 2, 3, 4])

# ------------------------------------------------------------------------------------- against the oracle


@given(networks(), fractions, floors, st.integers(0, 5))
@settings(max_examples=400, deadline=None)
def test_the_plan_is_what_a_walk_through_the_sorted_list_gives(
    rows: list[Row], fraction: float, floor: float, protected: int
) -> None:
    groups = as_groups(rows, protected)
    most = max(oracle.totals(rows, floor, 1))
    target = min(round(fraction * groups.nodes), most, groups.nodes - 1)
    plan = select(as_scores(rows), groups, budget_for(target, groups, floor))
    slow = oracle.walk(rows, target, floor)
    removed = oracle.removed(rows, kept(plan))
    assert removed <= target
    assert plan.reached == removed / groups.nodes
    steps = [row.cost for row in rows if oracle.least_width(row, floor, 1) < len(row.scores)]
    if target - oracle.removed(rows, slow) < min(steps, default=1):
        assert kept(plan) == slow
    else:  # cheap channels were traded for dear ones to come nearer
        assert removed >= oracle.removed(rows, slow)


@given(networks(), fractions, floors)
@settings(max_examples=300, deadline=None)
def test_the_target_is_met_to_the_node_where_channels_of_one_node_abound(
    rows: list[Row], fraction: float, floor: float
) -> None:
    rows = [*rows, Row("cheap", (0.7,) * 12, cost=1)]
    groups = as_groups(rows)
    most = max(oracle.totals(rows, floor, 1))
    target = min(round(fraction * groups.nodes), most)
    plan = select(as_scores(rows), groups, budget_for(target, groups, floor))
    assert oracle.removed(rows, kept(plan)) == target


@given(networks(divisors=True), fractions, floors, aligns)
@settings(max_examples=400, deadline=None)
def test_with_divisors_and_alignment_the_plan_is_that_of_one_step_at_a_time(
    rows: list[Row], fraction: float, floor: float, align: int
) -> None:
    groups = as_groups(rows)
    target = min(round(fraction * groups.nodes), max(oracle.totals(rows, floor, align)))
    plan = select(as_scores(rows), groups, budget_for(target, groups, floor, align))
    slow = oracle.walk_steps(rows, target, floor, align)
    got, expected = (oracle.removed(rows, keep) for keep in (kept(plan), slow))
    assert expected <= got <= target
    if got == expected:
        assert kept(plan) == slow


@given(networks(divisors=True), fractions, floors, aligns)
@settings(max_examples=400, deadline=None)
def test_every_width_is_valid_and_every_block_loses_its_worst(
    rows: list[Row], fraction: float, floor: float, align: int
) -> None:
    groups = as_groups(rows)
    target = min(round(fraction * groups.nodes), max(oracle.totals(rows, floor, align)))
    keep = kept(select(as_scores(rows), groups, budget_for(target, groups, floor, align)))
    left = target - oracle.removed(rows, keep)
    for row in rows:
        width = sum(keep[row.name])
        assert oracle.is_valid(row, width, align)
        assert width >= oracle.least_width(row, floor, align)
        assert oracle.worst_of_each_block(row, keep[row.name])
        for _, gone in oracle.next_step(row, keep, floor, align):
            assert row.cost * len(gone) > left, "a step that still fits was left out"


@given(networks(divisors=True), floors, aligns, st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_the_reachable_fraction_is_the_largest_total(
    rows: list[Row], floor: float, align: int, protected: int
) -> None:
    groups = as_groups(rows, protected)
    most = max(oracle.totals(rows, floor, align))
    assert reachable(groups, Budget(0.0, floor=floor, align=align)) == most / groups.nodes


@given(networks(divisors=True), floors, aligns, st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_what_is_beyond_reach_is_refused_with_a_range_that_is_itself_reachable(
    rows: list[Row], floor: float, align: int, protected: int
) -> None:
    groups = as_groups(rows, protected)
    most = max(oracle.totals(rows, floor, align))
    if most + 1 < groups.nodes:
        with pytest.raises(TargetUnreachableError) as refusal:
            select(as_scores(rows), groups, budget_for(most + 1, groups, floor, align))
        (named,) = re.findall(r"allows 0 to (0\.\d+)", str(refusal.value))
        plan = select(as_scores(rows), groups, Budget(float(named), floor=floor, align=align))
        assert plan.reached <= most / groups.nodes
        assert float(named) > most / groups.nodes - 1e-3
    if most < groups.nodes:
        select(as_scores(rows), groups, budget_for(most, groups, floor, align))


# --------------------------------------------------------------------------------------------- by example


def test_nothing_goes_where_nothing_is_asked() -> None:
    rows = [Row("a", (1.0, 0.0, 2.0)), Row("b", (0.0, 0.0))]
    plan = select(as_scores(rows), as_groups(rows), Budget(0.0))
    assert kept(plan) == {"a": [True] * 3, "b": [True] * 2}
    assert plan.reached == 0


def test_nothing_can_go_from_a_network_without_groups() -> None:
    groups = ChannelGroups((), (Protected("a", "its channels are split"),), {"a": 4}, ("head",))
    assert select({}, groups, Budget(0.0)).keep == {}
    assert reachable(groups, Budget(0.0)) == 0
    with pytest.raises(TargetUnreachableError, match=r"4 nodes of a \(its channels are split\)"):
        select({}, groups, Budget(0.5))


def test_one_group_loses_its_worst_channels() -> None:
    rows = [Row("a", (5.0, 1.0, 4.0, 2.0, 3.0))]
    plan = select(as_scores(rows), as_groups(rows), Budget(0.6))
    assert kept(plan) == {"a": [True, False, True, False, False]}
    assert plan.reached == 0.6


def test_ties_go_by_group_and_then_by_channel() -> None:
    rows = [Row("b", (1.0,) * 4), Row("a", (1.0,) * 4)]
    groups = as_groups(rows)
    three = kept(select(as_scores(rows), groups, Budget(3 / 8, floor=0.0)))
    assert three == {"b": [False, False, False, True], "a": [True] * 4}
    four = kept(select(as_scores(rows), groups, Budget(4 / 8, floor=0.0)))
    assert four == {"b": [False, False, False, True], "a": [False, True, True, True]}


def test_a_group_at_its_floor_hands_its_share_on() -> None:
    rows = [Row("bad", (0.0,) * 10), Row("good", (9.0,) * 10)]
    plan = select(as_scores(rows), as_groups(rows), Budget(0.7, floor=0.3))
    assert sum(kept(plan)["bad"]) == 3
    assert sum(kept(plan)["good"]) == 3


def test_the_floor_is_never_below_one_channel() -> None:
    rows = [Row("a", (0.0,) * 10)]
    assert kept(select(as_scores(rows), as_groups(rows), Budget(0.9, floor=0.0)))["a"].count(True) == 1


@pytest.mark.parametrize(("width", "least"), [(1, 1), (50, 1), (51, 2), (100, 2), (101, 3)])
def test_the_default_floor_is_two_percent_rounded_up(width: int, least: int) -> None:
    rows = [Row("a", tuple(map(float, range(width))))]
    assert reachable(as_groups(rows), Budget(0.0)) == (width - least) / width


def test_a_channel_that_costs_too_much_is_passed_over() -> None:
    rows = [Row("residual", (0.0, 0.1, 0.2), cost=3), Row("chain", (1.0, 2.0, 3.0))]
    keep = kept(select(as_scores(rows), as_groups(rows), Budget(5 / 12)))
    assert keep == {"residual": [False, True, True], "chain": [False, False, True]}


def test_cheap_channels_are_traded_for_a_dear_one_where_that_comes_nearer() -> None:
    rows = [Row("chain", (0.0, 1.0, 2.0)), Row("residual", (7.0, 8.0, 9.0), cost=3)]
    plan = select(as_scores(rows), as_groups(rows), Budget(4 / 12))
    assert plan.reached == 4 / 12
    assert kept(plan) == {"chain": [False, True, True], "residual": [False, True, True]}


def test_each_block_of_a_divisor_loses_its_own_worst() -> None:
    rows = [Row("grouped", (3.0, 1.0, 2.0, 30.0, 20.0, 10.0), divisor=2)]
    keep = kept(select(as_scores(rows), as_groups(rows), Budget(4 / 6)))
    assert keep == {"grouped": [True, False, False, True, False, False]}


def test_aligned_widths_are_multiples_or_the_own_width() -> None:
    rows = [
        Row("odd", tuple(map(float, range(20)))),
        Row("even", tuple(map(float, range(100, 132)))),
        Row("thin", (0.0,) * 3),
    ]
    groups = as_groups(rows)

    def widths(target: int) -> tuple[int, ...]:
        keep = kept(select(as_scores(rows), groups, budget_for(target, groups, align=8)))
        return tuple(sum(mask) for mask in keep.values())

    assert widths(3) == (20, 32, 3)
    assert widths(4) == (16, 32, 3)
    assert widths(12) == (8, 32, 3)
    assert widths(20) == (8, 24, 3)
    assert widths(36) == (8, 8, 3)


def test_alignment_and_divisor_go_together() -> None:
    rows = [Row("grouped", tuple(map(float, range(24))), divisor=3)]
    steps = list(removal_steps(as_groups(rows)[0], torch.tensor(rows[0].scores), Budget(0.0, align=4)))
    assert [len(step.channels) for step in steps] == [12]
    assert sorted(steps[0].channels) == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]


def test_steps_carry_their_cost_and_mean_score() -> None:
    rows = [Row("grouped", (4.0, 1.0, 2.0, 8.0), cost=2, divisor=2)]
    (step,) = removal_steps(as_groups(rows)[0], torch.tensor(rows[0].scores), Budget(0.0))
    assert (step.channels, step.cost, step.score) == ((1, 2), 4, 1.5)


def test_a_layer_that_writes_only_some_channels_makes_only_these_dearer() -> None:
    group = ChannelGroup(
        "a", 4, (Coupling("a", (0, 1, 2, 3), (0, 1, 2, 3)), Coupling("b", (0, 1), (2, 3))), ()
    )
    assert group.costs == (1, 1, 2, 2)


def test_the_refusal_names_protected_layers_and_the_groups_in_the_way() -> None:
    rows = [Row("wide", (0.0,) * 10, cost=2), Row("thin", (0.0, 1.0))]
    with pytest.raises(TargetUnreachableError) as refusal:
        select(as_scores(rows), as_groups(rows, protected=7), Budget(0.89, floor=0.3))
    message = str(refusal.value)
    assert message.startswith("nodes 0.89 can't be reached: this network allows 0 to 0.517 (15 of 29 nodes)")
    assert "7 nodes of stem (its channels are split)" in message
    assert "wide (6 nodes), thin (1 nodes)" in message
    assert "floor of 0.3" in message


def test_the_refusal_of_an_alignment_says_so() -> None:
    rows = [Row("a", (0.0,) * 20)]
    with pytest.raises(TargetUnreachableError, match=r"allows 0 to 0\.200 .* in widths of multiples of 16"):
        select(as_scores(rows), as_groups(rows), Budget(0.5, align=16))


def test_channels_that_went_before_go_first() -> None:
    rows = [Row("a", (-torch.inf, 2.0, 1.0, -torch.inf)), Row("b", (0.0, 3.0, -torch.inf, 4.0))]
    keep = kept(select(as_scores(rows), as_groups(rows), Budget(4 / 8)))
    assert keep == {"a": [False, True, True, False], "b": [False, True, False, True]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remove": 1.5}, r"nodes 1.5 is no fraction in \[0, 1\)"),
        ({"remove": 1.0}, "nodes 1 is no fraction"),
        ({"remove": -0.1}, "nodes -0.1 is no fraction"),
        ({"remove": float("nan")}, "nodes nan is no fraction"),
        ({"remove": 0.5, "floor": 1.0}, "floor 1 is no fraction"),
        ({"remove": 0.5, "align": 0}, "align 0 is no positive number"),
    ],
)
def test_a_budget_that_makes_no_sense_is_a_usage_error(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(**options)  # type: ignore[arg-type]


def test_the_scores_stay_as_they_are() -> None:
    rows = [Row("a", (3.0, 1.0, 2.0))]
    scores = as_scores(rows)
    select(scores, as_groups(rows), Budget(0.5))
    assert scores["a"].tolist() == [3.0, 1.0, 2.0]


def test_every_group_gives_up_its_worst_channel_where_that_is_a_small_part() -> None:
    rows = [Row("narrow", (9.0, 8.0, 9.5)), Row("wide", tuple(i / 100 for i in range(60)))]
    groups, scores = as_groups(rows), as_scores(rows)
    everywhere = select(scores, groups, Budget(0.5))
    assert everywhere.keep["narrow"].tolist() == [True, False, True]
    by_score = select(scores, groups, Budget(0.5, every_group=False))
    assert by_score.keep["narrow"].tolist() == [True, True, True]
    assert everywhere.reached == by_score.reached
    # One channel of each would be all of this target, so the scores alone decide.
    assert select(scores, groups, Budget(2 / 63)).keep["narrow"].all()
