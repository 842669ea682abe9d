"""What holds for every criterion: a new one adds its row and goes through every test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from structprune.channels import channel_groups
from structprune.choices import BatchNormMode
from structprune.errors import InputError, UsageError
from structprune.scoring import criteria
from structprune.scoring.criteria import CRITERIA, Criterion
from structprune.scoring.scores import Scores
from tests.criteria.settings import KINDS, NAMES, Kind, gated, network, sampling
from tests.networks import example
from tests.oracles.state import bits, changed, snapshot

ALL: dict[str, Criterion] = {
    "bn_scale": criteria.bn_scale,
    "crop": criteria.crop,
    "crop_gradflow": criteria.crop_gradflow,
    "filter_norm": criteria.filter_norm,
    "force": criteria.force,
    "gate_taylor": criteria.gate_taylor,
    "grasp": criteria.grasp,
    "magnitude": criteria.magnitude,
    "ntk_sap, weights kept, on data": partial(criteria.ntk_sap, weights="keep", inputs="data"),
    "ntk_sap, weights kept, on noise": partial(criteria.ntk_sap, weights="keep", inputs="noise"),
    "ntk_sap, weights redrawn, on noise": partial(criteria.ntk_sap, weights="redraw", inputs="noise"),
    "ntk_sap_kept": criteria.ntk_sap_kept,
    "ntk_sap_redrawn": criteria.ntk_sap_redrawn,
    "random": criteria.random,
    "snip": criteria.snip,
    "synflow": criteria.synflow,
}
PASSES = {"bn_scale": 0, "filter_norm": 0, "magnitude": 0, "random": 0, "synflow": 1}
"""How often a criterion runs the network, where it is not once a chunk."""
OF_THE_NETWORK = set(ALL) - {
    "bn_scale",  # the largest where there is no batch norm
    "grasp",  # signed
    "ntk_sap, weights redrawn, on noise",
    "ntk_sap_kept",  # can't take a smaller step
    "ntk_sap_redrawn",
    "random",
}
"""Criteria that can know of a dead channel: they look at the network's own weights."""
SIGNED = {"grasp"}
ALWAYS_DOUBLE = {"synflow"}
ONLY_CHANNELS = {"bn_scale", "filter_norm"}


def applies(criterion: str, name: str, kind: Kind = "channels") -> bool:
    """Tell whether there is what the criterion looks at: channels, batch norms."""
    return (kind == "channels" or criterion not in ONLY_CHANNELS) and (criterion, name) != (
        "bn_scale",
        "TinyMLP",
    )


each_criterion_and_network = pytest.mark.parametrize(
    ("criterion", "name"), [(c, n) for c in ALL for n in NAMES if applies(c, n)]
)
each_of_all = pytest.mark.parametrize(
    ("criterion", "name", "kind"), [(c, n, k) for c in ALL for n in NAMES for k in KINDS if applies(c, n, k)]
)
each_network = pytest.mark.parametrize("name", NAMES)


def test_every_registered_criterion_has_its_row() -> None:
    ours = {name for name in CRITERIA if CRITERIA[name].__module__.startswith("structprune.")}
    assert ours == {row.partition(",")[0] for row in ALL}


@each_of_all
def test_scores_are_finite_and_shaped_like_the_gates(criterion: str, name: str, kind: Kind) -> None:
    model = network(name, torch.float32)
    over = gated(name, model, kind)
    scores = ALL[criterion](over, sampling(name, model))
    assert {key: value.shape for key, value in scores.values.items()} == dict(over.shapes)
    for value in scores.values.values():
        assert value.dtype == (torch.float64 if criterion in ALWAYS_DOUBLE else torch.float32)
        assert value.device.type == "cpu"
        assert not value.requires_grad
        assert torch.isfinite(value).all()
        assert (value >= 0).all() or criterion in SIGNED
    assert max(float(value.max()) for value in scores.values.values()) > 0


@each_of_all
def test_the_same_seed_gives_the_same_scores_bit_for_bit(criterion: str, name: str, kind: Kind) -> None:
    first, second = (once(criterion, name, kind) for _ in range(2))
    assert {k: bits(v) for k, v in first.values.items()} == {k: bits(v) for k, v in second.values.items()}


def once(criterion: str, name: str, kind: Kind) -> Scores:
    torch.rand(3)  # the global random state plays no part
    model = network(name, torch.float32)
    torch.rand(3)
    return ALL[criterion](gated(name, model, kind), sampling(name, model))


@pytest.mark.parametrize("batch_norm", ["fixed", "batch"])
@each_of_all
def test_the_model_and_the_world_stay_as_they_were(
    criterion: str, name: str, kind: Kind, batch_norm: BatchNormMode
) -> None:
    model = lived_in(name)
    over = gated(name, model, kind)
    taken_on = sampling(name, model, batch_norm=batch_norm)
    inputs = [bits(x) for batch in taken_on.batches for x in (*batch.inputs, batch.target)]
    before = snapshot(model)
    ALL[criterion](over, taken_on)
    assert changed(before, snapshot(model)) == []
    assert [bits(x) for batch in taken_on.batches for x in (*batch.inputs, batch.target)] == inputs


@pytest.mark.parametrize(
    ("criterion", "calls"), [(c, calls) for c in ALL for calls in range(4) if calls < PASSES.get(c, 4)]
)
@each_network
def test_all_stays_as_it_was_where_the_forward_pass_raises(criterion: str, name: str, calls: int) -> None:
    model = lived_in(name)
    over = gated(name, model, "channels", on_inputs=True)
    taken_on = replace(sampling(name, model), forward=raising_after(calls, lambda f, x: f(*x)))
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="in the middle"):
        ALL[criterion](over, taken_on)
    assert changed(before, snapshot(model)) == []


@pytest.mark.parametrize("batch_norm", ["fixed", "batch"])
@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("criterion", ["crop", "crop_gradflow", "force", "gate_taylor", "grasp", "snip"])
def test_all_stays_as_it_was_where_the_loss_raises(
    criterion: str, calls: int, batch_norm: BatchNormMode
) -> None:
    model = lived_in("TinyConvBN")
    over = gated("TinyConvBN", model, "channels")
    taken_on = replace(
        sampling("TinyConvBN", model, batch_norm=batch_norm), loss=raising_after(calls, cross_entropy)
    )
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="in the middle"):
        ALL[criterion](over, taken_on)
    assert changed(before, snapshot(model)) == []


def lived_in(name: str) -> nn.Module:
    """A network with gradients, mixed modes, a frozen weight, a hook and a momentum of its own."""
    model = network(name, torch.float32)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.07 * (index + 1)
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    next(model.children()).register_forward_hook(lambda *_: None)
    return model


def raising_after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    left = [calls]

    def wrapper(*args: Any) -> Any:
        if left[0] == 0:
            raise RuntimeError("in the middle")
        left[0] -= 1
        return function(*args)

    return wrapper


@each_network
@pytest.mark.parametrize("criterion", sorted(OF_THE_NETWORK))
def test_a_dead_channel_gets_the_lowest_score(criterion: str, name: str) -> None:
    model = network(name)
    groups = channel_groups(model, example(NAMES[name], dtype=torch.float64))
    # The step of NTK-SAP wakes a dead channel, the less the smaller it is.
    is_ntk_sap = criterion.startswith("ntk_sap")
    score: Any = partial(ALL[criterion], **({"epsilon": 1e-6} if is_ntk_sap else {}))
    for group in groups:
        dead = network(name)
        kill(dead, group, channel=1)
        scores = score(gated(name, dead, "channels"), sampling(name, dead)).values
        lowest = min(float(value.min()) for value in scores.values())
        alive = max(float(value.max()) for value in scores.values())
        awake = 1e-4 * alive if is_ntk_sap else 0
        assert float(scores[group.name][1]) <= lowest + awake < alive


@torch.no_grad()
def kill(model: nn.Module, group: Any, channel: int) -> None:
    """Zero what writes a channel, what carries it and what reads it."""
    layers = dict(model.named_modules())
    for coupling in (*group.producers, *group.carriers):
        for index in indices(coupling, channel):
            for parameter in layers[coupling.layer].parameters():
                parameter[index] = 0
    for coupling in group.consumers:
        for index in indices(coupling, channel):
            weight = layers[coupling.layer].weight
            assert isinstance(weight, Tensor)
            weight[:, index] = 0


def indices(coupling: Any, channel: int) -> list[int]:
    return [c for c, gate in zip(coupling.channels, coupling.gates, strict=True) if gate == channel]


@each_of_all
def test_chunks_change_memory_and_not_the_score(criterion: str, name: str, kind: Kind) -> None:
    model = network(name, torch.float32)
    over = gated(name, model, kind)
    small, large = (
        ALL[criterion](over, sampling(name, model, sizes=(16, 16), chunk=chunk)) for chunk in (4, 16)
    )
    assert apart(small.values, large.values) < 1e-5


@each_criterion_and_network
def test_gates_on_inputs_and_on_weights_give_the_same_scores(criterion: str, name: str) -> None:
    model = network(name)
    on_weights, on_inputs = (
        ALL[criterion](gated(name, model, "channels", on_inputs=where), sampling(name, model))
        for where in (False, True)
    )
    assert apart(on_weights.values, on_inputs.values) < 1e-10


def apart(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The largest difference, as a fraction of the largest score."""
    largest = max(float(value.abs().max()) for value in b.values())
    return max(float((a[key] - b[key]).abs().max()) for key in b) / largest


@pytest.mark.parametrize("criterion", ["random", "ntk_sap, weights redrawn, on noise"])
def test_another_seed_gives_other_scores(criterion: str) -> None:
    model = network("TinyConvBN")
    over = gated("TinyConvBN", model, "channels")
    taken_on = sampling("TinyConvBN", model)
    first, second = (ALL[criterion](over, replace(taken_on, seed=seed)).values for seed in (0, 1))
    assert all(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("criterion", sorted(set(ALL) - {"random"}))
def test_scores_of_a_broken_network_are_refused(criterion: str) -> None:
    name = "TinyMLP" if applies(criterion, "TinyMLP") else "TinyConvBN"
    model = network(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    # Where weights are redrawn, biases are kept and carry the NaN.
    with pytest.raises(InputError, match="not finite"):
        ALL[criterion](gated(name, model, "channels"), sampling(name, model))


@each_network
@pytest.mark.parametrize("criterion", sorted(set(ALL) - ONLY_CHANNELS - {"crop_gradflow", "force"}))
def test_closed_gates_score_nothing(criterion: str, name: str) -> None:
    model = network(name)
    over = gated(name, model, "masked weights")
    scores = ALL[criterion](over, sampling(name, model))
    for key, value in scores.values.items():
        assert bool((value[~over.masks[key]] == 0).all())


@pytest.mark.parametrize("criterion", sorted(ONLY_CHANNELS))
def test_what_scores_channels_refuses_weights(criterion: str) -> None:
    model = network("TinyConvBN")
    with pytest.raises(UsageError, match=f"{criterion} scores channels.* use magnitude"):
        ALL[criterion](gated("TinyConvBN", model, "weights"), sampling("TinyConvBN", model))
