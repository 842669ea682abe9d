"""Couplings that leave no mark in a graph are found by cutting, and only the culprits are protected."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from structprune.channels import ChannelGroups, channel_groups
from structprune.channels import subsampling as thinning
from structprune.errors import InputError
from structprune.proofs import trial, trial_cut
from structprune.proofs.comparison import lockstep
from structprune.proofs.comparison.gap import Bounds
from structprune.proofs.trial_cut import verified_groups
from structprune.pruning.surgery import shrink
from tests.networks import NETWORKS, Tiny, TinyConvBN, example
from tests.oracles.cuttable import CUTTABLE
from tests.oracles.state import changed, snapshot
from tests.oracles.wiring import Layout, Wired, between, conv, pooled


def hidden_linear(s: Any, x: Tensor) -> Tensor:
    """The maps are made from a vector, by a view whose width is written into the code."""
    maps = s.up(pooled(torch.relu(s.stem(x)))).view(-1, 8, 1, 1)
    out: Tensor = s.head(pooled(s.b(torch.relu(maps))))
    return out


HIDDEN: dict[str, Layout] = {
    "a width in the code": Layout(
        lambda: Wired(
            hidden_linear, stem=conv(3, 5), up=nn.Linear(5, 8), b=conv(8, 6, 1), head=nn.Linear(6, 3)
        )
    ),
    "values that depend on the width": between(lambda y: y / y.shape[1]),
    "read behind torch's back": Layout(
        lambda: Wired(
            lambda s, x: s.head(
                pooled(s.b((y := s.a(x)) + torch.from_numpy(y.detach().numpy().sum(1, keepdims=True))))
            ),
            a=conv(3, 8),
            b=conv(8, 6),
            head=nn.Linear(6, 3),
        )
    ),
}
"""Layouts where a group can't be cut and no trace tells."""

CULPRIT = {
    "a width in the code": "up",
    "values that depend on the width": "a",
    "read behind torch's back": "a",
}


def offered(layout: Layout) -> tuple[nn.Module, ChannelGroups, tuple[Tensor, ...]]:
    model, inputs = layout.build().float(), (layout.inputs(3, torch.float32),)
    return model, channel_groups(model, inputs), inputs


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[ChannelGroups]:
    """Every cut that is tried, in order."""
    tried: list[ChannelGroups] = []

    def noted(model: nn.Module, groups: ChannelGroups, plan: Any) -> nn.Module:
        tried.append(groups)
        return shrink(model, groups, plan)

    for module in (trial, trial_cut):
        monkeypatch.setattr(module, "shrink", noted)
    return tried


@pytest.mark.parametrize("name", HIDDEN)
def test_what_only_a_cut_shows_is_protected_and_named(name: str) -> None:
    model, groups, inputs = offered(HIDDEN[name])
    assert CULPRIT[name] in {g.name for g in groups}, "the trace tells already"
    left = verified_groups(model, groups, inputs)
    assert {g.name for g in groups} - {g.name for g in left} == {CULPRIT[name]}
    reasons = {row.layer: row.reason for row in left.protected}
    assert "trial cut" in reasons[CULPRIT[name]]
    assert left.widths == groups.widths  # a protected layer's nodes still count


def shuffled(y: Tensor) -> Tensor:
    """A channel shuffle that fits every even width, so that nothing raises when channels are gone."""
    n, c, *space = y.shape
    return y.reshape(n, 2, c // 2, *space).transpose(1, 2).reshape(n, c, *space)


class ShuffledInTheDark(torch.autograd.Function):
    """A shuffle whose graph shows one opaque operation."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return shuffled(y)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        n, c, *space = g.shape
        return g.reshape(n, c // 2, 2, *space).transpose(1, 2).reshape(n, c, *space)


def apply_in_the_dark(y: Tensor) -> Tensor:
    out: Tensor = ShuffledInTheDark.apply(y)
    return out


def test_what_a_function_of_the_users_own_does_inside_is_seen() -> None:
    model, groups, inputs = offered(between(apply_in_the_dark))
    (group,) = (g for g in groups if g.name == "a")
    assert group.producers[0].gates == (0, 1, 2, 3) * 2  # what is shuffled leaves in pairs
    assert verified_groups(model, groups, inputs) is groups


@pytest.mark.parametrize("name", ["chain", "residual sum", "concat, batch norm", "grouped", "squeeze-excite"])
def test_a_right_network_loses_nothing_and_costs_three_trials(name: str, trials: list[ChannelGroups]) -> None:
    model, groups, inputs = offered(CUTTABLE[name])
    assert len(groups) > 0
    assert verified_groups(model, groups, inputs) is groups
    # One of all groups, one of some, and one of all in other sizes, batches, scales and modes.
    assert len(trials) == 3


LAYERS = tuple("abcdefghi")
"""Names without numbers: what differs in its number alone counts as being alike."""


def many(divided: set[int], layers: int = 9) -> Layout:
    """A chain in which some layers' outputs are averaged over the width that they should have."""

    def run(s: Any, x: Tensor) -> Tensor:
        for i in range(layers):
            x = torch.relu(getattr(s, LAYERS[i])(x))
            if i in divided:
                x = x * 6 / x.shape[1]
        out: Tensor = s.head(x)
        return out

    def build() -> Wired:
        chain = {LAYERS[i]: nn.Linear(6 if i else 5, 6) for i in range(layers)}
        return Wired(run, **chain, head=nn.Linear(6, 3))

    return Layout(build, (5,))


@pytest.mark.parametrize("culprits", [{0}, {8}, {2, 6}, {0, 1, 8}])
def test_bisection_finds_every_culprit_and_nothing_else(
    culprits: set[int], trials: list[ChannelGroups]
) -> None:
    model, groups, inputs = offered(many(culprits))
    left = verified_groups(model, groups, inputs)
    named = {LAYERS[i] for i in culprits}
    assert {g.name for g in left} == {LAYERS[i] for i in range(9)} - named
    assert {row.layer for row in left.protected if "trial" in row.reason} == named
    # The first trial, the one that cuts nothing, and log2(9) a culprit with two looks at what is left; then
    # that in other settings, and on weights drawn anew.
    assert len(trials) <= 2 + len(culprits) * (4 + 2) + 2 + 2


class Block(nn.Module):
    """A residual block whose hidden values depend on their width, or don't."""

    def __init__(self, averaged: bool) -> None:
        super().__init__()
        self.averaged, self.up, self.down = averaged, nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.up(x))
        out: Tensor = x + self.down(y / y.shape[1] if self.averaged else y)
        return out


def test_blocks_are_tried_by_themselves(trials: list[ChannelGroups]) -> None:
    def build() -> Wired:
        blocks = nn.Sequential(*(Block(averaged=i != 2) for i in range(6)))
        return Wired(
            lambda s, x: s.head(s.blocks(s.stem(x))),
            stem=nn.Linear(5, 6),
            blocks=blocks,
            head=nn.Linear(6, 3),
        )

    model, groups, inputs = offered(Layout(build, (5,)))
    left = verified_groups(model, groups, inputs)
    assert [g.name for g in left] == ["stem", "blocks.2.up"]
    # All, none, each block by itself, the right one twice, and what is left, three times; the residual stream
    # has no smaller home.
    assert [len(tried) for tried in trials] == [7, 7, *[1] * 7, 2, 2, 2]


def noisy(y: Tensor) -> Tensor:
    return F.dropout(y, 0.5, training=True)


def test_a_network_that_gives_random_outputs_is_refused() -> None:
    model, groups, inputs = offered(between(noisy))
    with pytest.raises(InputError, match="make its forward pass deterministic"):
        verified_groups(model, groups, inputs)


def test_a_network_without_groups_passes() -> None:
    model, groups, inputs = offered(Layout(lambda: Wired(lambda s, x: s.head(x), head=nn.Linear(5, 3)), (5,)))
    assert len(groups) == 0
    assert verified_groups(model, groups, inputs) is groups


@pytest.mark.parametrize("network", NETWORKS)
def test_the_network_is_untouched(network: type[Tiny]) -> None:
    model, inputs = network().train(), (example(network),)
    groups = channel_groups(model, inputs)
    before = snapshot(model)
    verified_groups(model, groups, inputs)
    assert changed(before, snapshot(model)) == []


def test_the_network_is_untouched_where_a_culprit_is_found() -> None:
    model, groups, inputs = offered(HIDDEN["a width in the code"])
    before, original = snapshot(model), copy.deepcopy(groups)
    verified_groups(model, groups, inputs)
    assert changed(before, snapshot(model)) == []
    assert groups == original


def test_several_outputs_are_all_compared() -> None:
    """The second output alone is wrong where a channel is gone."""

    def run(s: Any, x: Tensor) -> dict[str, Tensor]:
        y = torch.relu(s.a(x))
        return {"first": s.b(y), "second": s.c(y / y.shape[1])}

    def build() -> Wired:
        return Wired(run, a=nn.Linear(5, 8), b=nn.Linear(8, 3), c=nn.Linear(8, 3))

    model, groups, inputs = offered(Layout(build, (5,)))
    assert [g.name for g in verified_groups(model, groups, inputs)] == []


def test_wrong_indices_in_a_group_are_found() -> None:
    """What a wrong graph would offer: a consumer that reads the channels in another order."""
    model, inputs = TinyConvBN(), (example(TinyConvBN),)
    groups = channel_groups(model, inputs)
    wrong = next(g for g in groups if g.name == "conv1")
    (reader,) = wrong.consumers
    turned = replace(reader, gates=(*reader.gates[1:], reader.gates[0]))
    offers = tuple(replace(g, consumers=(turned,)) if g is wrong else g for g in groups)
    assert [g.name for g in verified_groups(model, replace(groups, groups=offers), inputs)] == ["conv2"]


def test_a_cut_that_needs_another_beside_it_is_found() -> None:
    """Where the widths of two layers are compared, cutting both or none of them is all that runs."""

    def run(s: Any, x: Tensor) -> Tensor:
        y = torch.relu(s.a(x))
        shared = y.shape[1] if (y.shape[1] == 8) == (s.b.out_features == 8) else 1
        out: Tensor = s.head(torch.relu(s.b(y)) * (shared > 1))
        return out

    def build() -> Wired:
        return Wired(run, a=nn.Linear(5, 8), b=nn.Linear(8, 8), head=nn.Linear(8, 3))

    model, groups, inputs = offered(Layout(build, (5,)))
    assert [g.name for g in groups] == ["a", "b"]
    assert len(verified_groups(model, groups, inputs)) < 2


def test_code_that_counts_on_half_a_width_is_found() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        y = torch.relu(s.a(x))
        out: Tensor = s.head(y * 2 if y.shape[1] >= 8 else y)
        return out

    model, groups, inputs = offered(
        Layout(lambda: Wired(run, a=nn.Linear(5, 16), head=nn.Linear(16, 3)), (5,))
    )
    assert [g.name for g in groups] == ["a"]
    assert len(verified_groups(model, groups, inputs)) == 0


def test_code_that_makes_float32_values_is_tried_in_float32() -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 6, dtype=torch.float32)
        for _ in range(2):
            state = s.cell(torch.relu(s.a(x)), state)
        out: Tensor = s.head(state)
        return out

    model, groups, inputs = offered(
        Layout(lambda: Wired(run, a=nn.Linear(5, 8), cell=nn.GRUCell(8, 6), head=nn.Linear(6, 3)), (5,))
    )
    assert verified_groups(model, groups, inputs) is not None


@pytest.mark.parametrize("error", [KeyError, ZeroDivisionError, AssertionError, NotImplementedError])
def test_whatever_a_forward_pass_raises_protects_its_group(error: type[Exception]) -> None:
    def run(s: Any, x: Tensor) -> Tensor:
        y = s.a(x)
        if y.shape[1] != 8:
            raise error
        out: Tensor = s.head(torch.relu(s.b(torch.relu(y))))
        return out

    model, groups, inputs = offered(
        Layout(lambda: Wired(run, a=nn.Linear(5, 8), b=nn.Linear(8, 6), head=nn.Linear(6, 3)), (5,))
    )
    assert [g.name for g in verified_groups(model, groups, inputs)] == ["b"]


@pytest.mark.parametrize("name", CULPRIT)
def test_large_networks_are_tried_in_single_precision_first(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    precisions = []
    verdict = trial.verdict_on

    def noted(model: nn.Module, *more: Any) -> trial.Verdict:
        precisions.append(next(model.parameters()).dtype)
        return verdict(model, *more)

    monkeypatch.setattr(trial_cut, "verdict_on", noted)
    monkeypatch.setattr(lockstep, "_LARGE", 1)
    model, groups, inputs = offered(CUTTABLE["concat, batch norm"])
    before = snapshot(model)
    assert verified_groups(model, groups, inputs) == groups
    assert changed(before, snapshot(model)) == []
    assert precisions == [torch.float32]
    # What goes wrong there is asked again, and nothing but the culprit is lost.
    model, groups, inputs = offered(HIDDEN[name])
    left = verified_groups(model, groups, inputs)
    assert torch.float64 in precisions
    assert {g.name for g in groups} - {g.name for g in left} == {CULPRIT[name]}


@pytest.mark.parametrize(
    ("least", "tried"), [(0, {4}), (8, {4, 8}), (16, {4, 8, 16})], ids=["any", "half", "its own"]
)
def test_fewer_pixels_of_large_images_are_enough(
    least: int, tried: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def forward(s: Any, x: Tensor) -> Tensor:
        seen.add(x.shape[-1])
        s.runs.add_(1.0)
        if x.shape[-1] < least:
            raise ValueError(f"expected {least} pixels")
        out: Tensor = s.b(torch.relu(s.a(x)))
        return out

    monkeypatch.setattr(thinning, "WIDE", 12)
    monkeypatch.setenv("STRUCTPRUNE_ISOLATED", "0")
    model = Wired(forward, a=conv(3, 8), b=conv(8, 4, 1))
    model.register_buffer("runs", torch.zeros(()))
    x = torch.randn(3, 3, 16, 16)
    before = snapshot(model)
    groups = channel_groups(model, x)
    assert seen == tried
    assert [group.name for group in groups] == ["a"]
    seen.clear()
    assert [group.name for group in verified_groups(model, groups, (x,))] == ["a"]
    assert tried <= seen  # and other sizes beside
    assert changed(before, snapshot(model)) == []


def test_a_layer_that_only_large_images_reach_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = torch.relu(s.a(x))
        if y.shape[-1] > 8:
            y = torch.relu(s.b(y))
        out: Tensor = s.c(y)
        return out

    monkeypatch.setattr(thinning, "WIDE", 12)
    model = Wired(forward, a=conv(3, 8), b=conv(8, 8), c=conv(8, 4))
    groups = channel_groups(model, torch.randn(3, 3, 16, 16))
    assert [group.name for group in groups] == ["a", "b"]
    assert groups.outputs == ("c",)


def test_what_float32_blurs_is_asked_again_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A right group counts as right though float32 can't tell, and the culprit beside it is found."""
    monkeypatch.setattr(lockstep, "_LARGE", 1)
    monkeypatch.setitem(trial.BOUNDS, torch.float32, Bounds(0.0, 0.0))
    model, groups, inputs = offered(HIDDEN[next(iter(CULPRIT))])
    left = verified_groups(model, groups, inputs)
    assert {g.name for g in groups} - {g.name for g in left} == {next(iter(CULPRIT.values()))}
