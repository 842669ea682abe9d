from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from structprune.channels import ChannelGroups, channel_groups
from structprune.nn.batch_norm import evaluating
from structprune.nn.layers import BatchNorm, weighted_layers
from structprune.pruning.budget import Budget, Plan, reachable, select
from structprune.pruning.counts import untouched, weight_entries, widths
from structprune.pruning.gates import gate_channels
from structprune.pruning.surgery import cuts, shrink
from tests.networks import NETWORKS, TinyConvBN, TinyMLP, TinyResidualConcat, example
from tests.oracles.cuttable import CUTTABLE
from tests.oracles.state import changed, snapshot


def random_plan(groups: ChannelGroups, remove: float, seed: int = 7) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    scores = {group.name: torch.rand(group.size, generator=generator) for group in groups}
    budget = Budget(min(remove, reachable(groups, Budget(remove)) - 1e-3))
    return select(scores, groups, budget)


def half_of_every_group(groups: ChannelGroups, seed: int = 8) -> Plan:
    """Remove half of each group at random, the same number in every block of its divisor."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in groups:
        block = group.size // group.divisor
        order = torch.rand(group.divisor, block, generator=generator).argsort(dim=1)
        keep[group.name] = (order >= block // 2).flatten()
    return Plan(keep, Budget(0.5), 0.5)


def gap_of_spread(dense: nn.Module, small: nn.Module, groups: ChannelGroups, plan: Plan, x: Tensor) -> float:
    """max|closed gates - shrunk| over the outputs' spread, batch norms on the statistics of the inputs."""
    gates = {name: kept.to(x.dtype) for name, kept in plan.keep.items()}
    with torch.no_grad(), evaluating(dense, "batch"), evaluating(small, "batch"):
        closed, cut, whole = gate_channels(dense, groups, {})(gates, (x,)), small(x), dense(x)
    spread = float(cut.std(0).mean())
    assert spread > 1e-3 * float(cut.abs().max())
    assert float((whole - cut).abs().max()) > 1e-3 * spread  # the cut made a difference
    return float((closed - cut).abs().max()) / spread


PLANS: dict[str, Callable[[ChannelGroups], Plan]] = {
    "half of every group": half_of_every_group,
    "half of the nodes": lambda groups: random_plan(groups, 0.5),
}
each_plan = pytest.mark.parametrize("plan", PLANS)


@each_plan
@pytest.mark.parametrize("network", NETWORKS)
def test_closed_gates_are_the_shrunk_network(network: type[nn.Module], plan: str) -> None:
    check(network(), example(network, 6, torch.float64), plan)  # type: ignore[arg-type]


@each_plan
@pytest.mark.parametrize("name", CUTTABLE)
def test_closed_gates_are_the_shrunk_network_in_every_layout(name: str, plan: str) -> None:
    check(CUTTABLE[name].build(), CUTTABLE[name].inputs(6), plan)


@torch.no_grad()
def lively(model: nn.Module) -> nn.Module:
    """Scale the weights up, so that the outputs of an untrained network vary over its inputs."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(3)
    return model


def check(model: nn.Module, x: Tensor, plan: str) -> None:
    model = lively(model.double())
    groups = channel_groups(model, x)
    chosen = PLANS[plan](groups)
    small = shrink(model, groups, chosen)
    assert gap_of_spread(model, small, groups, chosen, x) < 1e-9
    before_after = widths(model, small)
    removed = {c.layer for g in groups if not chosen.keep[g.name].all() for c in g.producers}
    assert removed == {layer for layer, (before, after) in before_after.items() if after < before}


ZOO: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (torchvision.models.resnet18, 32),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, 64),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, 64),
    "densenet": (
        lambda: torchvision.models.DenseNet(growth_rate=8, block_config=(2, 3, 2), num_init_features=16),
        64,
    ),
    "resnext": (
        lambda: torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], groups=8, width_per_group=4
        ),
        64,
    ),
    "regnet": (torchvision.models.regnet_y_400mf, 64),
    "squeezenet": (torchvision.models.squeezenet1_1, 64),
}


@pytest.mark.parametrize("name", ZOO)
def test_closed_gates_are_the_shrunk_network_in_the_zoo(name: str) -> None:
    build, pixels = ZOO[name]
    model = build().double()
    x = torch.randn(4, 3, pixels, pixels, dtype=torch.float64)
    groups = channel_groups(model, x)
    for plan in PLANS.values():
        chosen = plan(groups)
        small = shrink(model, groups, chosen)
        assert gap_of_spread(model, small, groups, chosen, x) < 1e-9
        assert list(untouched(model, small, {row.layer: row.reason for row in groups.protected})) == []


def test_a_wrong_cut_is_far_from_the_closed_gates() -> None:
    model = TinyResidualConcat().double()
    x = example(TinyResidualConcat, 6, torch.float64)
    groups = channel_groups(model, x)
    right = half_of_every_group(groups, seed=0)
    wrong = Plan({name: kept.flip(0) for name, kept in right.keep.items()}, right.budget, right.reached)
    assert any(not torch.equal(wrong.keep[name], right.keep[name]) for name in right.keep)
    assert gap_of_spread(model, shrink(model, groups, wrong), groups, right, x) > 1e-3


@pytest.mark.parametrize(
    "name", ["grouped", "grouped after grouped", "grouped residual", "transposed grouped"]
)
def test_grouped_convolutions_lose_the_same_number_in_each_group(name: str) -> None:
    model, x = CUTTABLE[name].build(), CUTTABLE[name].inputs(2, torch.float32)
    groups = channel_groups(model, x)
    scores = {group.name: torch.rand(group.size) for group in groups}
    plan = select(scores, groups, Budget(0.3))
    small = dict(weighted_layers(shrink(model, groups, plan)))
    for group in groups:
        kept, blocks = plan.keep[group.name].reshape(group.divisor, -1), group.divisor
        assert len(set(kept.sum(1).tolist())) == 1
        for block, score in zip(kept, scores[group.name].reshape(blocks, -1), strict=True):
            assert block.all() or score[~block].max() < score[block].min()
    for layer in small.values():
        assert layer.get_parameter("weight").shape[0] > 0


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_the_dense_network_is_not_touched(network: type[nn.Module], training: bool) -> None:
    model = network().train(training)
    groups = channel_groups(model, example(network))  # type: ignore[arg-type]
    before = snapshot(model)
    small = shrink(model, groups, half_of_every_group(groups))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert changed(before, snapshot(model)) == []
    assert {m.training for m in small.modules()} == {training}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_result_trains(network: type[nn.Module]) -> None:
    model = network().train()
    next(model.parameters()).requires_grad_(False)
    x = example(network, 8)  # type: ignore[arg-type]
    groups = channel_groups(model, x)
    small = shrink(model, groups, half_of_every_group(groups))
    optimiser = torch.optim.SGD((p for p in small.parameters() if p.requires_grad), lr=0.1)
    before = copy.deepcopy(small.state_dict())
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(small(x), torch.arange(8) % 3)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    frozen, *free = (name for name, _ in small.named_parameters())
    assert torch.equal(small.state_dict()[frozen], before[frozen])
    assert any(not torch.equal(small.state_dict()[name], before[name]) for name in free)


@pytest.mark.parametrize("name", CUTTABLE)
def test_every_layout_trains_after_the_cut(name: str) -> None:
    model, x = CUTTABLE[name].build().train(), CUTTABLE[name].inputs(4, torch.float32)
    groups = channel_groups(model, x)
    small = shrink(model, groups, half_of_every_group(groups))
    small(x).square().sum().backward()
    for parameter in small.parameters():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape


@pytest.mark.parametrize("network", NETWORKS)
def test_the_state_dict_goes_round(network: type[nn.Module]) -> None:
    model = network().eval()
    x = example(network)  # type: ignore[arg-type]
    groups = channel_groups(model, x)
    plan = half_of_every_group(groups)
    small = shrink(model, groups, plan)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    other = shrink(network().eval(), groups, plan)
    assert not torch.equal(other(x), small(x))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), small(x))
    assert set(small.state_dict()) == set(model.state_dict())


def test_layers_say_their_own_new_widths() -> None:
    model = TinyConvBN()
    groups = channel_groups(model, example(TinyConvBN))
    small: Any = shrink(model, groups, half_of_every_group(groups))
    assert (small.conv1.out_channels, small.conv2.in_channels, small.conv2.out_channels) == (2, 2, 3)
    assert (small.bn1.num_features, small.bn2.num_features, small.head.in_features) == (2, 3, 3)
    assert small.conv2.weight.shape == (3, 2, 3, 3)
    assert small.head.weight.shape == (3, 3)


def test_what_stays_are_the_kept_entries_in_their_order() -> None:
    model = TinyConvBN()
    model.bn1.running_mean = torch.arange(4.0)
    groups = channel_groups(model, example(TinyConvBN))
    keep = {"conv1": torch.tensor([1, 0, 1, 1]).bool(), "conv2": torch.tensor([0, 1, 0, 0, 1, 0]).bool()}
    small: Any = shrink(model, groups, Plan(keep, Budget(0.5), 0.5))
    assert torch.equal(small.conv1.weight, model.conv1.weight[[0, 2, 3]])
    assert torch.equal(small.conv2.weight, model.conv2.weight[[1, 4]][:, [0, 2, 3]])
    assert torch.equal(small.head.weight, model.head.weight[:, [1, 4]])
    assert torch.equal(small.head.bias, model.head.bias)
    assert small.bn1.running_mean.tolist() == [0, 2, 3]


def test_nothing_goes_where_all_is_kept() -> None:
    model = TinyResidualConcat()
    groups = channel_groups(model, example(TinyResidualConcat))
    plan = Plan({g.name: torch.ones(g.size, dtype=torch.bool) for g in groups}, Budget(0.0), 0.0)
    small = shrink(model, groups, plan)
    assert small is not model
    assert same(small.state_dict(), model.state_dict())
    assert all(cuts(groups, plan, side) == {} for side in ("producers", "consumers", "carriers"))


@pytest.mark.parametrize("name", ["chain", "flatten", "concat", "grouped", "depthwise", "squeeze-excite"])
def test_two_cuts_in_a_row_are_one_cut_of_what_both_remove(name: str) -> None:
    twice_is_composed(CUTTABLE[name].build(), CUTTABLE[name].inputs(2, torch.float32))


@pytest.mark.parametrize("network", [TinyMLP, TinyConvBN, TinyResidualConcat])
def test_two_cuts_in_a_row_are_one_cut_of_what_both_remove_on_the_tiny_networks(
    network: type[nn.Module],
) -> None:
    twice_is_composed(network(), example(network))  # type: ignore[arg-type]


def twice_is_composed(model: nn.Module, x: Tensor) -> None:
    groups = channel_groups(model, x)
    first = random_plan(groups, 0.3, seed=1)
    once = shrink(model, groups, first)
    fewer = channel_groups(once, x)
    second = random_plan(fewer, 0.3, seed=2)
    twice = shrink(once, fewer, second)
    at_once = shrink(model, groups, composed(first, second))
    assert same(at_once.state_dict(), twice.state_dict())
    assert weight_entries(twice) < weight_entries(once) < weight_entries(model)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def composed(first: Plan, second: Plan) -> Plan:
    """What two plans in a row keep, the second one made for the network that the first one left."""
    keep = {name: kept.clone() for name, kept in first.keep.items()}
    for name, kept in second.keep.items():
        keep[name][first.keep[name]] = kept
    return Plan(keep, Budget(0.5), 0.5)


def test_widths_name_every_layer_before_and_after() -> None:
    model = TinyConvBN()
    groups = channel_groups(model, example(TinyConvBN))
    small = shrink(model, groups, half_of_every_group(groups))
    assert widths(model, small) == {"conv1": (4, 2), "conv2": (6, 3), "head": (3, 3)}
    assert weight_entries(model) == 4 * 27 + 6 * 36 + 3 * 6
    assert weight_entries(small) == 2 * 27 + 3 * 18 + 3 * 3


def test_layers_that_kept_everything_are_named_unless_protected() -> None:
    model = TinyConvBN()
    groups = channel_groups(model, example(TinyConvBN))
    keep = {"conv1": torch.ones(4, dtype=torch.bool), "conv2": torch.arange(6) < 3}
    small = shrink(model, groups, Plan(keep, Budget(0.3), 0.3))
    assert list(untouched(model, small, {"head": "output"})) == ["conv1"]
    assert list(untouched(model, small, {})) == ["conv1", "head"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_precision_is_kept(dtype: torch.dtype) -> None:
    model = TinyResidualConcat().to(dtype)
    groups = channel_groups(TinyResidualConcat(), example(TinyResidualConcat))
    small = shrink(model, groups, half_of_every_group(groups))
    assert {p.dtype for p in small.parameters()} == {dtype}
    norms = [layer for layer in small.modules() if isinstance(layer, BatchNorm)]
    assert all(layer.running_mean.dtype == dtype for layer in norms if layer.running_mean is not None)
