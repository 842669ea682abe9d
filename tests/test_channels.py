from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroup, ChannelGroups, channel_groups
from structprune.errors import InputError
from structprune.report.data import Protected
from tests.networks import NETWORKS, TinyConvBN, TinyMLP, TinyResidualConcat, example
from tests.oracles.cuttable import CUTTABLE
from tests.oracles.refused import REFUSED
from tests.oracles.state import changed, snapshot
from tests.oracles.wiring import Layout, Wired, conv, pooled


def groups_of(layout: Layout) -> ChannelGroups:
    return channel_groups(layout.build(), layout.inputs(2, torch.float32))


def by_layer(groups: ChannelGroups) -> dict[str, ChannelGroup]:
    """Group of every producing layer."""
    return {c.layer: group for group in groups for c in group.producers}


def layers(couplings: tuple[object, ...]) -> set[str]:
    return {c.layer for c in couplings}  # type: ignore[attr-defined]


def test_a_chain_has_one_group_a_layer() -> None:
    groups = channel_groups(TinyMLP(), example(TinyMLP))
    found = by_layer(groups)
    assert {name: group.size for name, group in found.items()} == {"fc1": 6, "fc2": 4}
    assert layers(found["fc1"].consumers) == {"fc2"}
    assert layers(found["fc2"].consumers) == {"head"}


def test_batch_norms_carry_channels() -> None:
    found = by_layer(channel_groups(TinyConvBN(), example(TinyConvBN)))
    assert layers(found["conv1"].carriers) == {"bn1"}
    assert layers(found["conv2"].carriers) == {"bn2"}


def test_a_residual_sum_is_one_group_and_a_concat_is_two() -> None:
    found = by_layer(channel_groups(TinyResidualConcat(), example(TinyResidualConcat)))
    stream = found["stem"]
    assert stream is found["residual"]
    assert layers(stream.producers) == {"stem", "residual"}
    assert layers(stream.consumers) == {"residual", "side", "mix"}
    assert layers(found["side"].consumers) == {"mix"}


def test_a_consumer_behind_a_concat_reads_only_its_part() -> None:
    found = by_layer(channel_groups(TinyResidualConcat(), example(TinyResidualConcat)))
    (stream,) = (c for c in found["stem"].consumers if c.layer == "mix")
    (side,) = (c for c in found["side"].consumers if c.layer == "mix")
    assert (stream.channels, stream.gates) == ((0, 1, 2, 3), (0, 1, 2, 3))
    assert (side.channels, side.gates) == ((4, 5, 6), (0, 1, 2))


def test_a_flatten_gives_every_gate_its_entries() -> None:
    (group,) = groups_of(CUTTABLE["flatten"])
    (head,) = group.consumers
    assert head.channels == tuple(range(288))
    assert head.gates == tuple(index // 36 for index in range(288))


def test_a_concat_with_itself_gives_every_gate_two_entries() -> None:
    found = by_layer(groups_of(CUTTABLE["concat with itself"]))
    (b,) = found["a"].consumers
    assert dict(zip(b.channels, b.gates, strict=True)) == {i: i % 4 for i in range(8)}


def test_nodes_count_every_producer_once() -> None:
    groups = channel_groups(TinyResidualConcat(), example(TinyResidualConcat))
    assert groups.nodes == 4 + 4 + 3 + 5
    assert dict(groups.widths) == {"stem": 4, "residual": 4, "side": 3, "mix": 5}
    assert by_layer(groups)["stem"].costs == (2, 2, 2, 2)
    assert by_layer(groups)["side"].costs == (1, 1, 1)


def test_a_depthwise_layer_counts_and_carries_its_channels_on() -> None:
    groups = groups_of(CUTTABLE["depthwise"])
    found = by_layer(groups)
    assert found["a"] is found["b"]
    assert found["a"].costs == (2,) * 8
    assert layers(found["a"].consumers) == {"c"}
    assert groups.nodes == 8 + 8 + 6


def test_a_layer_that_is_used_twice_counts_once() -> None:
    assert groups_of(CUTTABLE["used twice"]).nodes == 16


@pytest.mark.parametrize("network", NETWORKS)
def test_the_output_layer_is_protected_and_not_counted(network: type[nn.Module]) -> None:
    groups = channel_groups(network(), example(network))  # type: ignore[arg-type]
    assert groups.outputs == ("head",)
    assert Protected("head", "it produces the network's outputs") in groups.protected
    assert "head" not in groups.widths


@pytest.mark.parametrize(
    ("run", "outputs"),
    [
        (lambda s, x: (s.head(pooled(y := s.a(x))), y), {"a", "head"}),
        (lambda s, x: {"maps": torch.relu(y := s.a(x)), "scores": s.head(pooled(y))}, {"a", "head"}),
        (lambda s, x: s.a(x).flatten(1), {"a"}),
        (lambda s, x: s.a(x).softmax(1), {"a"}),
        (lambda s, x: s.a(x).sum(1), {"a"}),
        (lambda s, x: s.a(x) + s.b(x), {"a", "b"}),
        (lambda s, x: torch.cat([y := s.a(x), s.c(torch.relu(y))], 1), {"a", "c"}),
        (lambda s, x: (s.head(pooled(s.a(x))), s.a(x)), {"a", "head"}),
    ],
    ids=[
        "also an output", "in a dict", "flattened", "softmax", "summed", "residual", "concat", "called again",
    ],
)  # fmt: skip
def test_whatever_reaches_an_output_is_protected(run: object, outputs: set[str]) -> None:
    net = Wired(
        run,  # type: ignore[arg-type]
        a=conv(3, 8, padding=1), b=conv(3, 8, padding=1), c=conv(8, 8, padding=1), head=nn.Linear(8, 3),
    )  # fmt: skip
    groups = channel_groups(net, torch.zeros(2, 3, 8, 8))
    assert {c for c in groups.outputs if c in outputs} == outputs
    assert not layers(tuple(c for group in groups for c in group.producers)) & outputs


def test_a_layer_that_is_never_run_is_protected() -> None:
    net = Wired(lambda s, x: s.head(pooled(s.a(x))), a=conv(3, 8), idle=conv(3, 4), head=nn.Linear(8, 3))
    groups = channel_groups(net, torch.zeros(1, 3, 8, 8))
    assert Protected("idle", "the traced pass does not reach it") in groups.protected
    assert groups.nodes == 12


@pytest.mark.parametrize("name", CUTTABLE)
def test_every_layer_of_a_layout_that_can_be_cut_is_in_a_group(name: str) -> None:
    groups = groups_of(CUTTABLE[name])
    assert set(by_layer(groups)) == set(groups.widths)
    assert [row.layer for row in groups.protected] == list(groups.outputs)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_graph_cannot_be_trusted_with_is_protected_with_a_reason(name: str) -> None:
    refused = REFUSED[name]
    groups = groups_of(refused.layout)
    assert refused.layer not in by_layer(groups)
    (reason,) = (row.reason for row in groups.protected if row.layer == refused.layer)
    assert refused.reason in reason
    assert len(reason.split()) >= 4


@pytest.mark.parametrize("name", ["channels padded", "broadcast over channels", "summed with the input"])
def test_what_lies_beside_a_protected_layer_is_still_cut(name: str) -> None:
    assert "b" in by_layer(groups_of(REFUSED[name].layout))


@pytest.mark.parametrize(
    ("name", "layer", "divisor"),
    [
        ("grouped", "a", 4),
        ("grouped", "b", 4),
        ("grouped", "c", 1),
        ("grouped after grouped", "b", 12),
        ("grouped after grouped", "c", 6),
        ("grouped residual", "a", 3),
        ("depthwise", "a", 1),
        ("transposed grouped", "b", 4),
    ],
)
def test_channels_of_grouped_convolutions_leave_in_multiples(name: str, layer: str, divisor: int) -> None:
    assert by_layer(groups_of(CUTTABLE[name]))[layer].divisor == divisor


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_tracing_leaves_no_trace(network: type[nn.Module], training: bool) -> None:
    model = network().train(training)
    next(model.parameters()).requires_grad_(False)
    x = example(network)  # type: ignore[arg-type]
    before = snapshot(model)
    first = channel_groups(model, x)
    assert changed(before, snapshot(model)) == []
    assert not x.requires_grad
    assert channel_groups(model, x) == first


def test_groups_do_not_depend_on_the_example_or_on_gradients() -> None:
    model = TinyResidualConcat()
    expected = channel_groups(model, example(TinyResidualConcat))
    with torch.no_grad():
        assert channel_groups(model, torch.ones(1, 3, 16, 16)) == expected


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(5, 4), nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(self.a(x) + self.b(y)))
            return out

    (group,) = channel_groups(Two(), [torch.zeros(2, 5), torch.zeros(2, 6)])
    assert layers(group.producers) == {"a", "b"}


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 8, 8), ()])
def test_an_example_that_does_not_fit_is_an_input_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"can't be traced with inputs of shape .*example_input"):
        channel_groups(TinyMLP(), torch.zeros(shape))
