from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups, channel_groups
from structprune.errors import UsageError
from structprune.nn.batch_norm import evaluating
from structprune.nn.layers import ConvTranspose, conv_groups, weighted_layers
from structprune.pruning.gates import Gates, gate_channels, gate_weights
from structprune.pruning.layer_inputs import input_sizes
from tests.networks import NETWORKS, TinyConvBN, TinyResidualConcat, example
from tests.oracles.cuttable import CUTTABLE
from tests.oracles.state import changed, snapshot
from tests.oracles.wiring import Layout

WHERE = {"on weights": False, "on inputs": True}
each_layout = pytest.mark.parametrize("name", CUTTABLE)
each_place = pytest.mark.parametrize("where", WHERE)


def prepared(layout: Layout) -> tuple[nn.Module, ChannelGroups, Tensor]:
    model, x = layout.build().double(), layout.inputs(5)
    return model, channel_groups(model, x), x


def sizes(model: nn.Module, where: str) -> dict[str, int]:
    """Zero bytes of input put every gate on the inputs, an unknown size puts it on the weight."""
    return {layer: 0 for layer, _ in weighted_layers(model)} if WHERE[where] else {}


def random_gates(groups: ChannelGroups) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(6)
    return {g.name: torch.randn(g.size, generator=generator, dtype=torch.float64) for g in groups}


@torch.no_grad()
def scaled_by_hand(model: nn.Module, groups: ChannelGroups, gates: Gates) -> nn.Module:
    """A copy whose consumers have the gates multiplied into their weights, input by input."""
    scaled = copy.deepcopy(model)
    layers = dict(scaled.named_modules())
    for group in groups:
        for consumer in group.consumers:
            layer = layers[consumer.layer]
            for channel, gate in zip(consumer.channels, consumer.gates, strict=True):
                column(layer, channel).mul_(gates[group.name][gate])
    return scaled


def column(layer: nn.Module, channel: int) -> Tensor:
    """The part of a weight that reads one input."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, ConvTranspose):
        return weight[channel]
    each = weight.shape[1]  # inputs of one conv group
    outputs = weight.shape[0] // conv_groups(layer)
    group = channel // each
    return weight[group * outputs : (group + 1) * outputs, channel % each]


@each_place
@each_layout
def test_gates_scale_what_the_consumers_read(name: str, where: str) -> None:
    model, groups, x = prepared(CUTTABLE[name])
    gates = random_gates(groups)
    gated = gate_channels(model, groups, sizes(model, where))
    by_hand = scaled_by_hand(model, groups, gates)
    with torch.no_grad(), evaluating(model, "batch"), evaluating(by_hand, "batch"):
        got, expected, dense = gated(gates, (x,)), by_hand(x), model(x)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(expected, dense, rtol=1e-3)


@each_place
@each_layout
def test_open_gates_change_nothing(name: str, where: str) -> None:
    model, groups, x = prepared(CUTTABLE[name])
    model.eval()
    gated = gate_channels(model, groups, sizes(model, where))
    assert torch.equal(gated(gated.ones(), (x,)), model(x))


@each_layout
def test_derivatives_are_the_same_on_inputs_and_on_weights(name: str) -> None:
    model, groups, x = prepared(CUTTABLE[name])
    first, second = (slopes(model.eval(), groups, x, where) for where in WHERE)
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)
    assert all(float(slope.abs().max()) > 0 for slope in first.values())


def slopes(model: nn.Module, groups: ChannelGroups, x: Tensor, where: str) -> dict[str, Tensor]:
    gated = gate_channels(model, groups, sizes(model, where))
    gates = gated.ones()
    found = torch.autograd.grad(gated(gates, (x,)).square().sum(), list(gates.values()))
    return dict(zip(gates, found, strict=True))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_gate_goes_where_it_costs_fewer_bytes(network: type[nn.Module]) -> None:
    model = network()
    x = example(network)  # type: ignore[arg-type]
    groups = channel_groups(model, x)
    bytes_in = input_sizes(model, lambda: model(x))
    gated = gate_channels(model, groups, bytes_in)
    for layer, module in weighted_layers(model):
        if layer in {c.layer for g in groups for c in g.consumers}:
            weight = module.get_parameter("weight")
            assert (layer in gated.input_scales) == (bytes_in[layer] < weight.nbytes)
            assert (f"{layer}.weight" in gated.weight_scales) == (bytes_in[layer] >= weight.nbytes)


def test_input_sizes_are_those_of_all_calls_together() -> None:
    layout = CUTTABLE["used twice"]
    model, x = layout.build(), layout.inputs(5, torch.float32)
    before = snapshot(model)
    found = input_sizes(model, lambda: model(x))
    assert found == {
        "a": 5 * 3 * 8 * 8 * 4,
        "b": 2 * 5 * 8 * 6 * 6 * 4,
        "head": 5 * 8 * 4,
    }
    assert changed(before, snapshot(model)) == []


def test_input_sizes_leave_no_hooks_where_the_pass_raises() -> None:
    model = TinyConvBN()
    before = snapshot(model)
    with pytest.raises(RuntimeError):
        input_sizes(model, lambda: model.eval()(torch.zeros(1, 2, 8, 8)))
    assert changed({**before}, {**snapshot(model.train())}) == []


@pytest.mark.parametrize("network", NETWORKS)
def test_weight_gates_scale_every_entry(network: type[nn.Module]) -> None:
    model = network().double().eval()
    x = example(network, dtype=torch.float64)  # type: ignore[arg-type]
    gated = gate_weights(model)
    gates = {name: torch.randn(shape, dtype=torch.float64) for name, shape in gated.shapes.items()}
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for name, gate in gates.items():
            by_hand.get_parameter(name).mul_(gate)
    assert set(gates) == {f"{name}.weight" for name, _ in weighted_layers(model)}
    assert torch.equal(gated(gates, (x,)), by_hand(x))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_the_gates_of_masked_weights_are_closed(dtype: torch.dtype) -> None:
    model = TinyConvBN().double().eval()
    x = example(TinyConvBN, dtype=torch.float64)
    mask = (torch.rand(4, 3, 3, 3) < 0.4).to(dtype)
    gated = gate_weights(model, {"conv1.weight": mask})
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        by_hand.conv1.weight.mul_(mask)
    first, second = gated.ones(), gated.ones(requires_grad=False)
    assert list(first) == list(gated.shapes) == ["conv1.weight", "conv2.weight", "head.weight"]
    assert torch.equal(second["conv1.weight"], mask.double())
    assert bool((second["head.weight"] == 1).all())
    assert all(gate.is_leaf and gate.requires_grad and gate.dtype == torch.float64 for gate in first.values())
    assert not any(gate.requires_grad for gate in second.values())
    assert torch.equal(gated(first, (x,)), by_hand(x))
    second["conv1.weight"].fill_(7)  # the mask is not what was given away
    assert torch.equal(gated.ones()["conv1.weight"], mask.double())


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("conv1.weight", (4, 3), r"a mask of shape \(4, 3\) for 'conv1.weight': its shape is \(4, 3, 3, 3\)"),
        ("conv1", (4,), "no gate has that name"),
        ("bn1.weight", (4,), "no gate has that name"),
    ],
)
def test_a_mask_of_nothing_or_of_another_shape_is_refused(
    name: str, shape: tuple[int, ...], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        gate_weights(TinyConvBN(), {name: torch.ones(shape)})


def test_a_weight_that_two_layers_share_has_one_gate() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    model[1].weight = model[0].weight
    gated = gate_weights(model)
    half = {name: gate / 2 for name, gate in gated.ones().items()}
    x = torch.randn(3, 4)
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        by_hand.get_parameter("0.weight").div_(2)
    assert list(half) == ["0.weight"]
    torch.testing.assert_close(gated(half, (x,)), by_hand(x))


@pytest.mark.parametrize("kind", ["channels", "weights"])
def test_effective_weights_can_stand_in_for_the_products(kind: str) -> None:
    model = TinyConvBN().double().eval()
    x = example(TinyConvBN, dtype=torch.float64)
    groups = channel_groups(model, x)
    gated = gate_weights(model) if kind == "weights" else gate_channels(model, groups, {})
    gates = {name: torch.randn(shape, dtype=torch.float64) for name, shape in gated.shapes.items()}
    doubled = {"conv2.weight": model.conv2.weight.detach() * 2}
    W = gated.effective(gates, parameters=doubled)
    assert W.keys() == gated.weight_scales.keys()
    assert torch.equal(gated(gated.ones(), (x,), scaled=W), gated(gates, (x,), parameters=doubled))
    leaves = {name: weight.requires_grad_() for name, weight in W.items()}
    slopes_W = torch.autograd.grad(gated(gates, (x,), scaled=leaves).sum(), list(leaves.values()))
    assert all(float(slope.abs().max()) > 0 for slope in slopes_W)


def test_the_flow_is_of_gates_on_channels_and_of_weights_on_weights() -> None:
    model = TinyResidualConcat()
    on_channels = gate_channels(model, channel_groups(model, example(TinyResidualConcat)))
    assert (on_channels.flow, gate_weights(model).flow) == ("gates", "weights")


def test_norms_are_the_batch_norms_that_a_channel_passes() -> None:
    model = TinyResidualConcat()
    gated = gate_channels(model, channel_groups(model, example(TinyResidualConcat)))
    rows = {layer: (channels, gates) for rows in gated.norms.values() for layer, channels, gates in rows}
    assert rows == dict.fromkeys(("bn0", "bn1"), ((0, 1, 2, 3), (0, 1, 2, 3)))
    assert gated.norms.keys() == gated.producers.keys()
    prelu = nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2))
    assert gate_channels(prelu, channel_groups(prelu, torch.zeros(2, 3))).norms == {"0": ()}


@pytest.mark.parametrize("where", WHERE)
def test_calling_leaves_no_trace_even_where_batch_norms_train(where: str) -> None:
    model = TinyResidualConcat().train()
    x = example(TinyResidualConcat)
    groups = channel_groups(model, x)
    gated = gate_channels(model, groups, sizes(model, where))
    before = snapshot(model)
    gated(gated.ones(), (x,)).sum().backward()
    with pytest.raises(RuntimeError):
        gated(gated.ones(), (x[:, :2],))
    assert changed(before, snapshot(model)) == []


def test_parameters_and_buffers_can_be_stood_in_for() -> None:
    model = TinyConvBN().double().eval()
    x = example(TinyConvBN, dtype=torch.float64)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv1.weight.mul_(2)
        other.bn1.running_mean = torch.full((4,), 0.5, dtype=torch.float64)
    gated = gate_channels(model, channel_groups(model, x), {})
    got = gated(
        gated.ones(),
        (x,),
        parameters={"conv1.weight": other.conv1.weight},
        buffers={"bn1.running_mean": other.bn1.running_mean},
    )
    torch.testing.assert_close(got, other(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_open_gates_have_the_models_precision(dtype: torch.dtype) -> None:
    model = TinyResidualConcat().to(dtype)
    gated = gate_channels(model, channel_groups(model, example(TinyResidualConcat, dtype=dtype)), {})
    gates = gated.ones()
    assert sorted(gate.shape[0] for gate in gates.values()) == [3, 4, 5]
    assert all(gate.dtype == dtype and gate.requires_grad for gate in gates.values())
    assert not any(gate.requires_grad for gate in gated.ones(requires_grad=False).values())
    assert all(bool((gate == 1).all()) for gate in gates.values())


class Twice(nn.Module):
    """A layer under two names, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.d = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.b = self.a
        self.c.weight = self.a.weight
        self.norm = nn.BatchNorm1d(5)
        self.same = self.norm

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.d(self.c(self.same(self.b(self.norm(self.a(x))))))
        return out


def test_layers_with_two_names_are_as_they_were() -> None:
    model = Twice().eval()
    x = torch.randn(6, 5)
    before = {name: (type(p), p.requires_grad, id(p)) for name, p in model.named_parameters()}
    gated = gate_weights(model)
    with torch.no_grad():
        assert torch.equal(gated(gated.ones(), (x,)), model(x))
        halved = {name: 0.5 * gate for name, gate in gated.ones().items()}
        other = copy.deepcopy(model)
        for layer in (other.a, other.d):  # c has a's weight
            layer.weight.mul_(0.5)
        assert torch.allclose(gated(halved, (x,)), other(x))
    assert {name: (type(p), p.requires_grad, id(p)) for name, p in model.named_parameters()} == before
    assert model.a.weight is model.c.weight
    assert model.a is model.b
