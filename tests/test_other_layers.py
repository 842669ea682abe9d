"""Recurrent layers, attentions, group norms and loose parameters: cut whole, and equal to closed gates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups, channel_groups
from structprune.limits.iterative import choose
from structprune.models.widths import set_widths, widths_of
from structprune.nn.attention import FewerHeads, fit_heads
from structprune.nn.batch_norm import evaluating
from structprune.nn.layers import node_layers, out_width, recurrent_reads
from structprune.proofs.trial_cut import verified_groups
from structprune.pruning.budget import Budget, Plan
from structprune.pruning.counts import widths
from structprune.pruning.gates import gate_channels
from structprune.pruning.surgery import regrouped, shrink
from structprune.scoring.samples import random_samples
from structprune.scoring.score import Scoring, score


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNN | nn.LSTM | nn.GRU], last: bool = False, **options: Any) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(3, 6), last
        self.rnn = kind(6, 8, **options)
        self.head = nn.Linear(16 if options.get("bidirectional") else 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, final = self.rnn(torch.tanh(self.embed(x)))
        final = final[0] if isinstance(final, tuple) else final
        out: Tensor = self.head(final[-1] if self.last else states[:, -1])
        return out


class SelfAttention(nn.Module):
    """Torch's own attention beside a residual stream that a LayerNorm holds together."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(3, 12), nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True, **options)
        self.place = nn.Parameter(torch.randn(1, 5, 12))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.place
        y = self.norm(x)
        out: Tensor = self.head((x + self.attention(y, y, y, need_weights=False)[0]).mean(1))
        return out


class PackedHeads(nn.Module):
    """An attention as timm writes it: packed, with its number of heads and their widths as attributes."""

    def __init__(self, heads: int = 3, head_dim: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, head_dim, heads * head_dim
        self.embed, self.norm = nn.Linear(3, 10), nn.LayerNorm(10)
        self.qkv, self.proj = nn.Linear(10, 3 * self.attn_dim), nn.Linear(self.attn_dim, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        y = self.norm(self.embed(x))
        packed = self.qkv(y).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = packed.unbind(0)
        shares = (q @ k.transpose(-2, -1)).softmax(-1)
        out: Tensor = self.head(self.proj((shares @ v).transpose(1, 2).reshape(n, t, self.attn_dim)).mean(1))
        return out


class SeparateHeads(nn.Module):
    """An attention as transformers writes it: three projections, and shapes that find the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.head_dim = 4, 3
        self.embed, self.norm = nn.Linear(3, 10), nn.LayerNorm(10)
        self.q, self.k, self.v = (nn.Linear(10, 12) for _ in range(3))
        self.out, self.head = nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.embed(x))
        q, k, v = (
            f(y).view(*y.shape[:-1], -1, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.head(self.out(seen.transpose(1, 2).reshape(*x.shape[:-1], -1)).mean(1))
        return out


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: Recurrent(nn.RNN, batch_first=True),
    "lstm": lambda: Recurrent(nn.LSTM, batch_first=True),
    "lstm, last state": lambda: Recurrent(nn.LSTM, last=True, batch_first=True),
    "two layers, both directions": lambda: Recurrent(
        nn.LSTM, batch_first=True, num_layers=2, bidirectional=True
    ),
    "gru without biases": lambda: Recurrent(nn.GRU, batch_first=True, num_layers=2, bias=False),
    "attention": SelfAttention,
    "attention without biases": lambda: SelfAttention(bias=False),
    "packed heads": PackedHeads,
    "separate heads": SeparateHeads,
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def built(name: str) -> tuple[nn.Module, Tensor, ChannelGroups]:
    model = NETWORKS[name]().double()
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    groups = channel_groups(model, x)
    return model, x, verified_groups(model, groups, (x,))


def half(groups: ChannelGroups) -> Plan:
    keep = {}
    for group in groups:
        gone = torch.randperm(group.size)[: group.size // 2]
        keep[group.name] = torch.ones(group.size, dtype=torch.bool).index_fill(0, gone, False)
    return Plan(keep, Budget(0.5), 0.5)


def gap(model: nn.Module, small: nn.Module, groups: ChannelGroups, plan: Plan, x: Tensor) -> float:
    gates = {name: keep.double() for name, keep in plan.keep.items()}
    with torch.no_grad(), evaluating(model), evaluating(small):
        closed, cut, whole = gate_channels(model, groups)(gates, (x,)), small(x), model(x)
    if not all(bool(keep.all()) for keep in plan.keep.values()):  # the cut made a difference
        assert float((whole - cut).abs().max()) > 1e-3 * float(whole.std(0).mean())
    return float((closed - cut).abs().max() / cut.std(0).mean())


@each_network
def test_closed_gates_are_the_shrunk_network(name: str) -> None:
    model, x, groups = built(name)
    inner = {c.layer for g in groups for c in g.producers}
    expected = {"attention", "qkv", "q", "k", "v", "rnn"} & {n for n, _ in node_layers(model)}
    assert expected <= inner, f"{expected - inner} are not offered: {groups.protected}"
    plan = half(groups)
    assert gap(model, shrink(model, groups, plan), groups, plan, x) < 1e-9


@each_network
def test_what_is_left_trains_and_can_be_cut_again(name: str) -> None:
    model, x, groups = built(name)
    plan = half(groups)
    small = shrink(model, groups, plan)
    small.train()(x).square().mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in small.parameters())
    left = regrouped(groups, plan)
    again = half(left)
    assert gap(small, shrink(small, left, again), left, again, x) < 1e-9


@each_network
def test_the_trace_of_what_is_left_shows_the_same_groups(name: str) -> None:
    model, x, groups = built(name)
    plan = half(groups)
    traced = channel_groups(shrink(model, groups, plan), x)
    expected = {g.name: g for g in regrouped(groups, plan) if g.size > 1}
    found = {g.name: g for g in traced if g.size > 1}
    assert {n: g.producers for n, g in found.items()} == {n: g.producers for n, g in expected.items()}


@each_network
def test_a_rebuilt_network_computes_the_same(name: str) -> None:
    """Widths and tensors are all that a result folder keeps."""
    model, x, groups = built(name)
    small = shrink(model, groups, half(groups)).eval()
    twin = NETWORKS[name]().double().eval()
    set_widths(twin, widths_of(small))
    for key, value in small.state_dict().items():
        owner, _, attribute = key.rpartition(".")
        setattr(twin.get_submodule(owner), attribute, nn.Parameter(value.clone()))
    assert torch.equal(fit_heads(twin)(x), small(x))


@each_network
@pytest.mark.parametrize("criterion", ["ntk_sap+crop", "snip", "filter_norm", "crop_gradflow", "random"])
def test_every_kind_of_criterion_scores_them(name: str, criterion: str) -> None:
    model, x, groups = built(name)
    samples = random_samples(model, (x,), 16)
    found = score(model, groups, samples, Scoring(criterion, draws=2))
    assert {n: v.numel() for n, v in found.values.items()} == {g.name: g.size for g in groups}
    plan = choose(model, groups, samples, Scoring(criterion, draws=2), Budget(0.3)).plan
    assert gap(model, shrink(model, groups, plan), groups, plan, x) < 1e-9


@pytest.mark.parametrize("inputs", [1, 2, 3, 9])
@pytest.mark.parametrize("name", ["attention", "packed heads", "separate heads"])
def test_heads_are_found_on_any_number_of_inputs(name: str, inputs: int) -> None:
    model = NETWORKS[name]()
    expected = channel_groups(model, torch.randn(2, 5, 3))
    assert any(group.sizes for group in expected)
    assert channel_groups(model, torch.randn(inputs, 5, 3)) == expected


def test_nodes_are_hidden_units_times_layers_and_directions() -> None:
    model, _, groups = built("two layers, both directions")
    assert groups.widths["rnn"] == 8 * 2 * 2
    (group,) = (g for g in groups if g.name == "rnn")
    assert group.costs == (4,) * 8
    small = shrink(model, groups, half(groups))
    assert widths(model, small)["rnn"] == (32, 16)
    assert small.get_submodule("rnn").hidden_size == 4


def test_a_recurrent_layer_reads_its_inputs_then_its_units() -> None:
    layer = nn.LSTM(3, 2, num_layers=2, bidirectional=True)
    reads = {name: columns.tolist() for name, columns in recurrent_reads(layer).items()}
    assert reads["weight_ih_l0"] == reads["weight_ih_l0_reverse"] == [0, 1, 2]
    assert reads["weight_hh_l0"] == [3, 4]
    assert reads["weight_hh_l0_reverse"] == [5, 6]
    assert reads["weight_ih_l1"] == reads["weight_ih_l1_reverse"] == [3, 4, 5, 6]
    assert reads["weight_hh_l1_reverse"] == [9, 10]
    assert all(
        len(reads[name]) == weight.shape[1] for name, weight in layer.named_parameters() if name in reads
    )


@pytest.mark.parametrize("name", ["attention", "packed heads", "separate heads"])
def test_whole_heads_leave(name: str) -> None:
    model, _, groups = built(name)
    (group,) = (g for g in groups if g.sizes)
    heads = {"attention": 4, "packed heads": 3, "separate heads": 4}[name]
    assert group.size == heads
    assert sum(group.costs) == sum(out_width(dict(node_layers(model))[c.layer]) for c in group.producers)
    keep = {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups}
    keep[group.name][1] = False
    small = shrink(model, groups, Plan(keep, Budget(0.0), 0.0))
    counted = {row.attribute: getattr(small.get_submodule(row.module), row.attribute) for row in group.sizes}
    wanted = {"num_heads": heads - 1, "num_attention_heads": heads - 1, "attn_dim": (heads - 1) * 4}
    assert counted == {attribute: wanted[attribute] for attribute in counted}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "a head each", "padding", "both"])
def test_fewer_heads_attend_as_torch_does(batch_first: bool, mask: str) -> None:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(12, 4, batch_first=batch_first).double().eval()
    same = copy.deepcopy(whole)
    same.__class__ = FewerHeads
    shape = (2, 5, 12) if batch_first else (5, 2, 12)
    q, k, v = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padded = torch.zeros(2, 5, dtype=torch.bool)
    padded[1, 3:] = True
    options: dict[str, dict[str, Any]] = {
        "none": {},
        "bool": {"attn_mask": later},
        "float": {"attn_mask": torch.randn(5, 5, dtype=torch.float64)},
        "a head each": {"attn_mask": torch.randn(8, 5, 5, dtype=torch.float64)},
        "padding": {"key_padding_mask": padded},
        "both": {"key_padding_mask": padded, "attn_mask": later},
    }
    for more in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        (a, shares), (b, expected) = (net(q, k, v, **options[mask], **more) for net in (same, whole))
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert (shares is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(shares, expected, rtol=1e-10, atol=1e-12)


def test_fewer_heads_take_one_input_without_a_batch() -> None:
    whole = nn.MultiheadAttention(12, 4, batch_first=True).double().eval()
    same = copy.deepcopy(whole)
    same.__class__ = FewerHeads
    x = torch.randn(5, 12, dtype=torch.float64)
    for got, expected in zip(same(x, x, x), whole(x, x, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_an_attention_that_kept_its_heads_keeps_its_class() -> None:
    assert type(fit_heads(nn.MultiheadAttention(12, 4))) is nn.MultiheadAttention


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_first_state_or_a_projection_protects_a_recurrent_layer() -> None:
    class Started(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            first = torch.ones(1, len(x), 8, dtype=x.dtype)
            out: Tensor = self.head(self.rnn(self.embed(x), first)[0][:, -1])
            return out

    started = channel_groups(Started(nn.GRU, batch_first=True), torch.zeros(2, 5, 3))
    assert "rnn" in {row.layer for row in started.protected}
    assert any("first state" in row.reason for row in started.protected)
    projected = nn.Sequential(nn.Linear(3, 6), nn.LSTM(6, 8, proj_size=4))
    groups = channel_groups(projected, torch.zeros(2, 5, 3))
    assert len(groups) == 0
    assert {row.layer for row in groups.protected} == {"0", "1"}
    assert any("LSTM" in row.reason for row in groups.protected if row.layer == "1")


class Attending(nn.Module):
    """An attention whose inputs can be cut too: no norm holds them together."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.attention = nn.Linear(3, 12), nn.MultiheadAttention(12, 4, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.read(x))
        out: Tensor = self.head(self.attention(y, y, y, need_weights=False)[0].mean(1))
        return out


@pytest.mark.parametrize("only", ["read", "attention", "attention.out_proj"])
def test_inputs_heads_and_outputs_of_an_attention_leave_alone(only: str) -> None:
    model, x = Attending().double(), torch.randn(4, 5, 3, dtype=torch.float64)
    groups = verified_groups(model, channel_groups(model, x), (x,))
    assert {g.name for g in groups} == {"read", "attention", "attention.out_proj"}
    keep = {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups}
    keep[only][: len(keep[only]) // 2] = False
    plan = Plan(keep, Budget(0.0), 0.0)
    small = shrink(model, groups, plan)
    assert gap(model, small, groups, plan, x) < 1e-9
    assert type(small.attention) is FewerHeads or only == "attention.out_proj"


def test_inputs_may_be_given_by_name() -> None:
    class Named(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(input=self.rnn(input=self.embed(input=x))[0][:, -1])
            return out

    model, x = Named(nn.LSTM, batch_first=True).double(), torch.randn(4, 5, 3, dtype=torch.float64)
    groups = verified_groups(model, channel_groups(model, x), (x,))
    assert {g.name for g in groups} == {"embed", "rnn"}
    plan = half(groups)
    assert gap(model, shrink(model, groups, plan), groups, plan, x) < 1e-9


@pytest.mark.parametrize("inputs", [1, 4])
def test_heads_that_only_training_runs_are_cut_along(inputs: int) -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
            self.norm, self.head, self.aux = nn.BatchNorm2d(6), nn.Linear(6, 3), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Any:
            y = torch.relu(self.a(x))
            out = self.head(self.norm(self.b(y).mean((2, 3), keepdim=True)).flatten(1))
            return (out, self.aux(y).mean((2, 3))) if self.training else out

    model = Auxiliary()
    groups = channel_groups(model, torch.randn(inputs, 3, 8, 8))
    assert groups.outputs == ("head", "aux")
    small = shrink(model, groups, half(groups)).train()
    assert [y.shape for y in small(torch.randn(2, 3, 8, 8))] == [(2, 3), (2, 4)]


def test_buffers_that_are_not_saved_hold_their_channels() -> None:
    class Scaled(nn.Module):
        def __init__(self, persistent: bool) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(3, 8), nn.Linear(8, 3)
            self.register_buffer("scale", torch.rand(8), persistent=persistent)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.a(x) * self.scale)
            return out

    offered = {
        kept: [g.name for g in channel_groups(Scaled(kept), torch.randn(2, 3))] for kept in (True, False)
    }
    assert offered == {True: ["a"], False: []}
