"""Gate, score, select, once or in steps, with scores that are laid down where the choice is under test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from structprune.channels import ChannelGroups, channel_groups
from structprune.errors import TargetUnreachableError, UnknownNameError, UsageError
from structprune.limits import iterative
from structprune.limits.iterative import choose
from structprune.pruning.budget import Budget, Plan, reachable, select
from structprune.pruning.counts import widths
from structprune.pruning.gates import GatedModel
from structprune.pruning.surgery import regrouped, shrink
from structprune.reconstruction import Reconstructed, Reconstruction, reconstruction_on
from structprune.scoring import score as choosing
from structprune.scoring.criteria import CRITERIA
from structprune.scoring.samples import Samples, random_samples, samples_of
from structprune.scoring.sampling import Sampling
from structprune.scoring.score import Scoring, fitting_chunk, order, score, score_weights
from structprune.scoring.scores import Scores
from tests.networks import NETWORKS, Tiny, TinyConvBN, TinyMLP, TinyResidualConcat, example
from tests.oracles.state import changed, snapshot


class Case:
    """A network with its groups and samples."""

    def __init__(self, model: nn.Module, x: Tensor, count: int = 16) -> None:
        self.model, self.example = model, (x,)
        self.groups = channel_groups(model, x)
        self.samples = random_samples(model, self.example, count)

    def choose(self, scoring: Scoring, budget: Budget) -> tuple[Plan, Scores]:
        choice = choose(self.model, self.groups, self.samples, scoring, budget)
        return choice.plan, choice.scores


def wide_mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, 40),
        nn.ReLU(),
        nn.Linear(40, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )


@pytest.fixture
def mlp() -> Case:
    return Case(wide_mlp(), torch.randn(2, 5))


@pytest.fixture
def residual() -> Case:
    return Case(TinyResidualConcat(), example(TinyResidualConcat))


def removed(groups: ChannelGroups, plan: Plan) -> int:
    """Nodes that leave, counted layer by layer and index by index."""
    gone = set()
    for group in groups:
        for producer in group.producers:
            for channel, gate in zip(producer.channels, producer.gates, strict=True):
                if not plan.keep[group.name][gate]:
                    gone.add((producer.layer, channel))
    return len(gone)


# ---- one shot


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["snip", "ntk_sap+crop"])
def test_one_shot_is_score_then_select(network: type[Tiny], name: str) -> None:
    case = Case(network(), example(network))
    scoring, budget = Scoring(name, draws=2), Budget(0.4)
    plan, found = case.choose(scoring, budget)
    expected = order(case.model, case.groups, case.samples, scoring)
    assert all(torch.equal(found.values[g], expected.values[g]) for g in expected.values)
    selected = select(expected.values, case.groups, budget)
    assert all(torch.equal(plan.keep[g], selected.keep[g]) for g in selected.keep)
    assert plan.budget == budget


@pytest.mark.parametrize("steps", [1, 3])
def test_the_network_and_the_random_state_are_untouched(residual: Case, steps: int) -> None:
    before = snapshot(residual.model)
    residual.choose(Scoring(draws=2, steps=steps), Budget(0.4))
    assert changed(before, snapshot(residual.model)) == []


@pytest.mark.parametrize("steps", [1, 3])
def test_the_same_seed_gives_the_same_scores_bit_for_bit(residual: Case, steps: int) -> None:
    one, two = (residual.choose(Scoring(draws=2, steps=steps, seed=7), Budget(0.4)) for _ in range(2))
    assert all(torch.equal(one[1].values[g], two[1].values[g]) for g in one[1].values)
    assert all(torch.equal(one[0].keep[g], two[0].keep[g]) for g in one[0].keep)


def test_another_seed_gives_other_scores(residual: Case) -> None:
    one, two = (residual.choose(Scoring(draws=2, seed=seed), Budget(0.4))[1] for seed in (0, 1))
    assert any(not torch.equal(one.values[g], two.values[g]) for g in one.values)


@pytest.mark.parametrize("name", ["snip", "crop", "crop_gradflow", "ntk_sap"])
def test_the_chunk_does_not_change_a_score(residual: Case, name: str) -> None:
    one, two = (
        score(residual.model, residual.groups, residual.samples, Scoring(name, draws=2, chunk=chunk))
        for chunk in (4, 16)
    )
    largest = max(float(value.max()) for value in one.values.values())
    for group in one.values:
        assert torch.allclose(one.values[group], two.values[group], rtol=0, atol=1e-5 * largest)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["snip", "ntk_sap"])
def test_nor_does_it_on_one_thread_where_torch_has_two_kernels_for_1x1_convolutions(name: str) -> None:
    torch.manual_seed(0)
    deep = Case(torchvision.models.mobilenet_v2(weights=None), torch.randn(2, 3, 64, 64))
    one, two = (
        score(deep.model, deep.groups, deep.samples, Scoring(name, draws=1, chunk=chunk)) for chunk in (4, 16)
    )
    largest = max(float(value.max()) for value in one.values.values())
    for group in one.values:
        assert torch.allclose(one.values[group], two.values[group], rtol=0, atol=1e-5 * largest)
    assert torch.get_num_threads() == 1


class Watched(nn.Module):
    """A network with 1x1 convolutions that notes on how many threads it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.threads: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.threads.add(torch.get_num_threads())
        out: Tensor = self.head(self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3)))
        return out


SCORING: dict[str, Callable[[Case, Scoring], object]] = {
    "score": lambda case, scoring: score(case.model, case.groups, case.samples, scoring),
    "order": lambda case, scoring: order(case.model, case.groups, case.samples, scoring),
    "choose in steps": lambda case, scoring: case.choose(replace(scoring, steps=2), Budget(0.4)),
    "weights": lambda case, scoring: score_weights(case.model, case.samples, scoring),
}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("way", SCORING)
def test_threads_are_the_users(way: str, trained: bool, threads: int) -> None:
    watched = Watched()
    case = Case(watched, torch.randn(2, 3, 4, 4))
    watched.threads.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        SCORING[way](case, Scoring(trained=trained))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert watched.threads == {threads}


@pytest.mark.parametrize("name", ["crop", "ntk_sap+crop", "snip"])
def test_a_trained_networks_score_is_that_of_one_mini_batch_after_the_other(name: str) -> None:
    """In float64, on labels that are given: a chunk of 4 has no room for a second mini-batch."""
    case = Case(TinyConvBN().double(), example(TinyConvBN, dtype=torch.float64), 26)
    chunks = (4, 64)
    scoring = Scoring(name, trained=True, labels="given")
    one, many = (order(case.model, case.groups, case.samples, replace(scoring, chunk=c)) for c in chunks)
    for group, values in one.values.items():
        torch.testing.assert_close(many.values[group], values, rtol=1e-9, atol=1e-15)


class Choosy(nn.Module):
    """Keeps its samples apart while they are few and mixes them where they are many."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        y = y[: len(y) - 1] if len(y) > 4 and torch.is_grad_enabled() else y
        out: Tensor = self.head(self.b(y).relu())
        return out


def test_where_side_by_side_fails_after_all_mini_batches_go_one_after_the_other() -> None:
    torch.manual_seed(0)
    case = Case(Choosy(), torch.randn(2, 5), 24)
    scoring = Scoring("crop", trained=True, labels="given")
    many, one = (score(case.model, case.groups, case.samples, replace(scoring, chunk=c)) for c in (64, 4))
    assert all(torch.equal(many.values[group], one.values[group]) for group in one.values)


def test_a_trained_network_is_scored_until_its_ranking_has_settled() -> None:
    """Channels that differ by far settle at once, and the other samples are never run."""
    torch.manual_seed(0)
    model = wide_mlp()
    with torch.no_grad():
        for name in ("0.weight", "2.weight", "4.weight"):
            weight = model.get_parameter(name)
            weight.mul_(torch.logspace(-2, 1, len(weight))[:, None])
    x = torch.randn(1000, 5)
    groups, ran = channel_groups(model, x[:2]), list[int]()

    def forward(network: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        ran.append(len(inputs[0]))
        return network(*inputs)

    samples = samples_of((x, torch.randint(3, (1000,))), functional.cross_entropy, forward)
    found = order(model, groups, samples, Scoring("crop", trained=True))
    assert found.taken is not None
    assert 256 <= found.taken.samples < 1000 == found.taken.offered
    assert sum(ran) < 1000
    assert order(model, groups, samples, Scoring("crop")).taken is None


# ---- in steps


@pytest.fixture
def laid_down(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Score a channel by its bias, which travels with it; what comes back lists widths at every scoring."""
    seen: list[dict[str, int]] = []

    def by_bias(model: nn.Module, groups: ChannelGroups, samples: Samples, scoring: Scoring) -> Scores:
        seen.append({group.name: group.size for group in groups})
        return Scores({g.name: model.get_parameter(f"{g.name}.bias").detach() for g in groups}, "bias")

    monkeypatch.setattr(iterative, "order", by_bias)
    return seen


def test_steps_aim_at_cumulative_targets_and_meet_the_last_to_the_node(
    mlp: Case, laid_down: list[dict[str, int]]
) -> None:
    plan, _ = mlp.choose(Scoring(steps=3), Budget(0.875))
    left = [sum(sizes.values()) for sizes in laid_down]
    nodes = 40 + 24 + 10
    assert left == [nodes - round(fraction * nodes) for fraction in (0.0, 0.5, 0.75)]
    assert removed(mlp.groups, plan) == round(0.875 * nodes)
    assert plan.budget == Budget(0.875)
    assert plan.reached == round(0.875 * nodes) / nodes


def test_with_scores_that_do_not_change_steps_choose_as_one_shot(
    mlp: Case, laid_down: list[dict[str, int]]
) -> None:
    """A channel's bias is its score wherever it went, so any slip of an index would show."""
    one, three = (mlp.choose(Scoring(steps=steps), Budget(0.6))[0] for steps in (1, 3))
    assert all(torch.equal(one.keep[g], three.keep[g]) for g in one.keep)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Every plan that ``choose`` makes, in order."""
    made: list[Plan] = []

    def noted(scores: dict[str, Tensor], groups: ChannelGroups, budget: Budget) -> Plan:
        made.append(select(scores, groups, budget))
        return made[-1]

    monkeypatch.setattr(iterative, "select", noted)
    return made


@pytest.mark.parametrize("budget", [Budget(0.6), Budget(0.5, align=4), Budget(0.8, floor=0.1)], ids=str)
def test_what_is_gone_never_returns(mlp: Case, plans: list[Plan], budget: Budget) -> None:
    plan, found = mlp.choose(Scoring("random", steps=4), budget)
    _, *steps = plans  # the first asks whether the target can be reached
    assert len(steps) == 4
    for earlier, later in itertools.pairwise(steps):
        assert not any((later.keep[g] & ~earlier.keep[g]).any() for g in later.keep)
        assert removed(mlp.groups, later) > removed(mlp.groups, earlier)
    for group, keep in steps[-2].keep.items():
        assert (found.values[group][~keep] == -math.inf).all()
        assert torch.isfinite(found.values[group][keep]).all()
    assert plan.keep == steps[-1].keep


def test_what_is_gone_never_returns_where_every_group_is_to_give_up_something(
    plans: list[Plan], laid_down: list[dict[str, int]]
) -> None:
    """Small steps: at the one where a channel of every group becomes affordable, the gone must stay gone."""
    model = nn.Sequential()
    sizes = [5, 400, *[30] * 30]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(inputs, outputs)
        nn.init.constant_(layer.bias, 0.0 if i == 0 else 1.0)  # the first layer's channels are the worst
        model.append(layer)
    model.append(nn.Linear(30, 3))
    case = Case(model, torch.randn(2, 5), 4)
    case.choose(Scoring(steps=15), Budget(0.27))
    _, *steps = plans
    for earlier, later in itertools.pairwise(steps):
        assert not any((later.keep[g] & ~earlier.keep[g]).any() for g in later.keep)


def test_floors_are_those_of_the_dense_network(mlp: Case) -> None:
    """A quarter of each width, and not a quarter of a quarter."""
    budget = Budget(0.74, floor=0.25)
    plan, _ = mlp.choose(Scoring("random", steps=4), budget)
    assert {name: int(keep.sum()) for name, keep in plan.keep.items()} == {"0": 10, "2": 6, "4": 3}


@pytest.mark.parametrize("network", NETWORKS)
def test_groups_keep_their_names_after_shrinking(network: type[Tiny]) -> None:
    case = Case(network(), example(network))
    plan, _ = case.choose(Scoring("magnitude"), Budget(0.25))
    after = channel_groups(shrink(case.model, case.groups, plan), case.example)
    assert [g.name for g in after] == [g.name for g in case.groups]
    assert {g.name: g.size for g in after} == {name: int(keep.sum()) for name, keep in plan.keep.items()}


def test_a_plan_of_several_steps_can_be_cut_and_runs(residual: Case) -> None:
    plan, _ = residual.choose(Scoring("snip", steps=3), Budget(0.4))
    small = shrink(residual.model, residual.groups, plan)
    gone = sum(before - after for before, after in widths(residual.model, small).values())
    assert gone == round(0.4 * residual.groups.nodes) == removed(residual.groups, plan)
    assert small(residual.example[0]).shape == (4, 3)


def test_steps_are_told(mlp: Case) -> None:
    told: list[str] = []
    case = mlp
    choose(
        case.model,
        case.groups,
        case.samples,
        Scoring("random", steps=2),
        Budget(0.5),
        told.append,
    )
    assert told == ["scoring, step 1 of 2", "scoring, step 2 of 2"]


@pytest.mark.parametrize("trained", [False, True])
def test_one_criterion_shows_its_own_values_whatever_the_choice_makes_of_them(
    residual: Case, trained: bool
) -> None:
    """What a user asks to see is the formula's value; what the choice compares may have been rescaled."""
    case = (residual.model, residual.groups, residual.samples)
    for name in ("filter_norm", "crop"):
        own, chosen_by = (f(*case, Scoring(name, trained=trained)).values for f in (score, order))
        assert all(torch.equal(own[g], chosen_by[g]) for g in own) != trained
    expected = filter_norm_of(residual)
    own = score(*case, Scoring("filter_norm", trained=True)).values
    assert all(torch.allclose(own[g], expected[g]) for g in expected)


def filter_norm_of(case: Case) -> dict[str, Tensor]:
    """Mean |w| of the filters that make a channel, averaged over its layers, written out."""
    norms: dict[str, Tensor] = {}
    for group in case.groups:
        per_channel: list[list[float]] = [[] for _ in range(group.size)]
        for producer in group.producers:
            weight = case.model.get_parameter(f"{producer.layer}.weight").detach()
            for channel, gate in zip(producer.channels, producer.gates, strict=True):
                per_channel[gate].append(float(weight[channel].abs().mean()))
        norms[group.name] = torch.tensor([sum(one) / len(one) for one in per_channel])
    return norms


# ---- refusals


@pytest.fixture
def raising() -> Iterator[str]:
    """The name of a criterion that must never be called."""

    def never(gated: GatedModel, sampling: Sampling) -> Scores:
        raise AssertionError("scored before the target was checked")

    CRITERIA._entries["never"] = never
    yield "never"
    del CRITERIA._entries["never"]


@pytest.mark.parametrize("steps", [1, 3])
def test_an_unreachable_target_is_refused_before_any_scoring(mlp: Case, raising: str, steps: int) -> None:
    with pytest.raises(TargetUnreachableError, match="this network allows 0 to "):
        mlp.choose(Scoring(raising, steps=steps), Budget(0.99))
    with pytest.raises(AssertionError, match="scored before"):  # it would have been called
        mlp.choose(Scoring(raising, steps=steps), Budget(0.5))


@pytest.mark.parametrize(
    "wrong",
    [
        {"draws": 0},
        {"steps": 0},
        {"chunk": 0},
        {"steps": -2},
    ],
)
def test_counts_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="expected a number from 1 on"):
        Scoring(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mini_batch": 1}, "at least 2"),
        ({"labels": "guessed"}, "given, drawn"),
        ({"allocation": "fair"}, "global, conserved, uniform"),
        ({"widths": "magnitude"}, "no part of ntk_sap"),
    ],
)
def test_settings_that_are_not_known_are_refused(wrong: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Scoring(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["snap", "snip+crap", ""])
def test_an_unknown_score_is_refused_before_any_work(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"known: .*snip"):
        Scoring(name)


# ---- what a criterion is given


@pytest.fixture
def samplings() -> Iterator[list[Sampling]]:
    """What a criterion named ``noted`` was given."""
    given: list[Sampling] = []

    def noted(gated: GatedModel, sampling: Sampling) -> Scores:
        given.append(sampling)
        return Scores({name: torch.ones(shape) for name, shape in gated.shapes.items()}, "noted")

    CRITERIA._entries["noted"] = noted
    yield given
    del CRITERIA._entries["noted"]


@pytest.mark.parametrize(("trained", "accumulate"), [(True, "abs"), (False, "total")])
def test_derivatives_are_summed_as_suits_the_network(
    residual: Case, samplings: list[Sampling], trained: bool, accumulate: str
) -> None:
    score(residual.model, residual.groups, residual.samples, Scoring("noted", trained=trained))
    score(
        residual.model,
        residual.groups,
        residual.samples,
        Scoring("noted", trained=trained, accumulate="square"),
    )
    assert [s.accumulate for s in samplings] == [accumulate, "square"]
    assert [s.trained for s in samplings] == [trained, trained]


def test_a_trained_network_keeps_its_own_statistics(residual: Case, samplings: list[Sampling]) -> None:
    score(residual.model, residual.groups, residual.samples, Scoring("noted", trained=True))
    assert samplings[0].statistics is None
    assert samplings[0].batch_norm == "fixed"


def test_an_untrained_network_takes_those_of_the_scoring_inputs(samplings: list[Sampling]) -> None:
    """Cumulative over mini-batches: the mean of their means, and of their unbiased variances."""
    case = Case(TinyConvBN(), example(TinyConvBN), 32)
    score(case.model, case.groups, case.samples, Scoring("noted"))
    conv1 = case.model.get_submodule("conv1")
    maps = [conv1(batch.inputs[0]) for batch in case.samples.batches]
    assert len(maps) == 2
    statistics = samplings[0].statistics
    assert statistics is not None
    means = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variances = torch.stack([m.transpose(0, 1).flatten(1).var(1) for m in maps]).mean(0)
    torch.testing.assert_close(statistics["bn1.running_mean"], means)
    torch.testing.assert_close(statistics["bn1.running_var"], variances)


def test_batch_statistics_can_be_asked_for(residual: Case, samplings: list[Sampling]) -> None:
    score(residual.model, residual.groups, residual.samples, Scoring("noted", batch_norm="batch"))
    assert (samplings[0].batch_norm, samplings[0].statistics) == ("batch", None)


def test_ntk_sap_redraws_weights_of_an_untrained_network_only() -> None:
    """Two networks that differ in their weights score alike where weights are redrawn."""
    torch.manual_seed(1)
    one, two = Case(TinyMLP(), example(TinyMLP)), Case(TinyMLP(), example(TinyMLP))
    biases = {name: value for name, value in one.model.state_dict().items() if name.endswith("bias")}
    two.model.load_state_dict(biases, strict=False)  # which are kept where weights are redrawn

    def alike(trained: bool) -> bool:
        values = [
            score(c.model, c.groups, one.samples, Scoring("ntk_sap", trained)).values for c in (one, two)
        ]
        return all(torch.equal(values[0][g], values[1][g]) for g in values[0])

    assert alike(trained=False)
    assert not alike(trained=True)


@pytest.mark.parametrize(
    ("trained", "real", "uses_data"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_ntk_sap_takes_data_where_the_network_is_trained(trained: bool, real: bool, uses_data: bool) -> None:
    case = Case(TinyMLP(), example(TinyMLP))
    others = replace(case.samples, batches=random_samples(case.model, case.example, 16, seed=5).batches)
    values = [
        score(case.model, case.groups, replace(s, real=real), Scoring("ntk_sap", trained)).values
        for s in (case.samples, others)
    ]
    differs = any(not torch.equal(values[0][g], values[1][g]) for g in values[0])
    assert differs == uses_data


# ---- memory


def is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def test_the_chunk_is_a_power_of_two_and_grows_as_networks_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_BYTES_PER_PASS", 15 * 1000)
    widths_of_inputs = (1000, 300, 100, 30, 1)
    chunks = []
    for width in widths_of_inputs:
        samples = samples_of((torch.zeros(64, width), torch.zeros(64, dtype=torch.long)))
        chunks.append(fitting_chunk(nn.Linear(width, 2), samples))
    assert chunks == [1, 1, 2, 8, 16]
    assert all(map(is_power_of_two, chunks))


def test_the_chunk_of_a_real_network_is_the_whole_mini_batch_where_it_is_small(residual: Case) -> None:
    assert fitting_chunk(residual.model, residual.samples) == 16


def test_steps_go_on_where_a_grouped_conv_comes_down_to_one_channel_a_group() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=4),
        nn.ReLU(),
        nn.Conv2d(16, 24, 1),
        nn.Flatten(),
        nn.Linear(24 * 4 * 4, 5),
    )
    case = Case(model, torch.randn(4, 3, 8, 8))
    target = int(1000 * reachable(case.groups, Budget(0.5))) / 1000
    plan, _ = case.choose(Scoring("snip", steps=4), Budget(target))
    small = shrink(model, case.groups, plan)
    assert [small.get_submodule(name).weight.shape[0] for name in ("0", "2")] == [4, 4]  # type: ignore[index]
    assert small(case.example[0]).shape == (4, 5)


def test_groups_of_a_shrunk_network_are_those_that_its_own_trace_shows(residual: Case) -> None:
    plan, _ = residual.choose(Scoring("random"), Budget(0.4))
    ours = regrouped(residual.groups, plan)
    traced = channel_groups(shrink(residual.model, residual.groups, plan), residual.example)
    assert ours.groups == traced.groups
    assert dict(ours.widths) == dict(traced.widths)


def test_a_correction_chooses_channels_and_reconstructs_before_every_next_step(
    mlp: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here always the first channels of a group stay, and the next step sees what was made of them."""
    scored, widths_before = list[Plan](), list[list[int]]()

    def first_ones(dense: nn.Module, groups: ChannelGroups, plan: Plan, correction: Reconstruction) -> Plan:
        scored.append(plan)
        keep = {name: torch.arange(len(k)) < k.sum() for name, k in plan.keep.items()}
        return replace(plan, keep=keep)

    def noted(
        dense: nn.Module, small: nn.Module, groups: ChannelGroups, plan: Plan, correction: Reconstruction
    ) -> Reconstructed:
        widths_before.append([int(keep.sum()) for keep in plan.keep.values()])
        assert all(keep[: int(keep.sum())].all() for keep in plan.keep.values())
        assert [m.out_features for m in small.modules() if isinstance(m, nn.Linear)][:-1] == widths_before[-1]
        return Reconstructed(small)

    monkeypatch.setattr(iterative, "rechoose", first_ones)
    monkeypatch.setattr(iterative, "reconstruct", noted)
    inputs = torch.cat([batch.inputs[0] for batch in mlp.samples.batches] * 8)
    correction = reconstruction_on("least-squares", (inputs,), rechooses=True)
    scoring = Scoring("snip", steps=3)
    choice = choose(mlp.model, mlp.groups, mlp.samples, scoring, Budget(0.6), correction=correction)
    plan = choice.plan
    assert "channels kept are not those of the highest scores" in " ".join(choice.notes)
    assert len(scored) == 3
    assert len(widths_before) == 2
    for name, keep in plan.keep.items():
        assert keep.tolist() == sorted(keep.tolist(), reverse=True)
        assert keep.sum() == scored[-1].keep[name].sum()
