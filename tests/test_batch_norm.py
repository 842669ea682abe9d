from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from structprune.choices import BatchNormMode
from structprune.nn.batch_norm import collect_statistics, evaluating, initial_statistics, were_trained
from tests.networks import TinyConvBN, TinyMLP, TinyResidualConcat, example
from tests.oracles.state import changed, snapshot

MODES: tuple[BatchNormMode, ...] = ("fixed", "batch")


def mixed_modes() -> nn.Module:
    model = TinyResidualConcat()
    for index, module in enumerate(model.modules()):
        module.training = index % 3 == 0
    return model


@pytest.mark.parametrize("batch_norm", MODES)
def test_modes_come_back(batch_norm: BatchNormMode) -> None:
    model = mixed_modes()
    before = snapshot(model)
    with evaluating(model, batch_norm):
        norms = {m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
        others = {m.training for m in model.modules() if not isinstance(m, nn.BatchNorm2d)}
    assert norms == {batch_norm == "batch"}
    assert others == {False}
    assert changed(before, snapshot(model)) == []


@pytest.mark.parametrize("batch_norm", MODES)
def test_modes_come_back_where_the_block_raises(batch_norm: BatchNormMode) -> None:
    model = mixed_modes()
    before = snapshot(model)
    with pytest.raises(KeyError), evaluating(model, batch_norm):
        raise KeyError
    assert changed(before, snapshot(model)) == []


def test_dropout_stays_off_with_the_batchs_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    with evaluating(model, "batch"):
        assert [layer.training for layer in model] == [True, False]


def forward_of(model: nn.Module) -> Any:
    def forward(buffers: Mapping[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(model, dict(buffers), (x,))
        return out

    return forward


def test_statistics_are_the_mean_over_batches() -> None:
    model = TinyConvBN().double()
    batches = torch.split(example(TinyConvBN, 12, torch.float64), [5, 4, 3])
    taken = collect_statistics(model, forward_of(model), batches)
    maps = [model.conv1(x) for x in batches]
    mean = sum(m.mean((0, 2, 3)) for m in maps) / 3
    variance = sum(m.transpose(0, 1).flatten(1).var(1, unbiased=True) for m in maps) / 3
    torch.testing.assert_close(taken["bn1.running_mean"], mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(taken["bn1.running_var"], variance, rtol=1e-12, atol=1e-14)
    assert int(taken["bn1.num_batches_tracked"]) == 3


def test_deeper_statistics_are_taken_behind_norms_of_the_batch() -> None:
    model = TinyConvBN().double()
    x = example(TinyConvBN, 6, torch.float64)
    taken = collect_statistics(model, forward_of(model), [x])
    first = model.conv1(x)
    whitened = (first - first.mean((0, 2, 3), keepdim=True)) / torch.sqrt(
        first.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    )
    second = model.conv2(torch.relu(whitened))
    torch.testing.assert_close(taken["bn2.running_mean"], second.mean((0, 2, 3)), rtol=1e-10, atol=1e-12)


def test_statistics_do_not_depend_on_those_that_the_network_has() -> None:
    model, other = TinyConvBN(), TinyConvBN()
    other.load_state_dict(model.state_dict())
    other.bn1.running_mean = torch.full((4,), 7.0)
    other.bn1.momentum = 0.9
    batches = torch.split(example(TinyConvBN, 8), 4)
    first, second = (collect_statistics(m, forward_of(m), batches) for m in (model, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_taking_statistics_leaves_no_trace() -> None:
    model = mixed_modes()
    before = snapshot(model)
    taken = collect_statistics(model, forward_of(model), torch.split(example(TinyResidualConcat, 8), 4))
    assert changed(before, snapshot(model)) == []
    assert not any(value.requires_grad for value in taken.values())


def test_taking_statistics_leaves_no_trace_where_the_pass_raises() -> None:
    model = mixed_modes()
    before = snapshot(model)
    with pytest.raises(RuntimeError):
        collect_statistics(model, forward_of(model), [torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 8, 8)])
    assert changed(before, snapshot(model)) == []


def test_the_network_can_run_on_what_was_taken() -> None:
    model = TinyConvBN().double().eval()
    x = example(TinyConvBN, 6, torch.float64)
    taken = collect_statistics(model, forward_of(model), [x])
    with_statistics = copy.deepcopy(model)
    with_statistics.load_state_dict({**model.state_dict(), **taken})
    torch.testing.assert_close(forward_of(model)(taken, x), with_statistics(x))


def test_fresh_statistics_are_those_of_a_new_layer() -> None:
    model = TinyConvBN()
    model.bn1.running_mean = torch.ones(4)
    fresh = initial_statistics(model)
    new = dict(TinyConvBN().named_buffers())
    assert fresh.keys() == new.keys()
    assert all(torch.equal(fresh[name], new[name]) for name in new)


def test_a_norm_without_a_counter_is_served() -> None:
    model = TinyConvBN()
    model.bn1.num_batches_tracked = None
    taken = collect_statistics(model, forward_of(model), torch.split(example(TinyConvBN, 8), 4))
    counted = collect_statistics(
        both := TinyConvBN(), forward_of(both), torch.split(example(TinyConvBN, 8), 4)
    )
    assert taken["bn1.running_mean"].shape == counted["bn1.running_mean"].shape
    assert model.bn1.num_batches_tracked is None
    means = [model.conv1(x).mean((0, 2, 3)).detach() for x in torch.split(example(TinyConvBN, 8), 4)]
    torch.testing.assert_close(taken["bn1.running_mean"], (means[0] + means[1]) / 2)


def test_a_norm_that_keeps_no_statistics_has_none_to_take() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert collect_statistics(model, forward_of(model), [torch.randn(2, 3, 4, 4)]) == {}
    assert were_trained(model) is None


def test_a_network_without_norms_cannot_tell_whether_it_was_trained() -> None:
    assert were_trained(TinyMLP()) is None


def test_a_new_network_was_not_trained() -> None:
    assert were_trained(TinyResidualConcat()) is False


@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
def test_a_network_whose_statistics_have_moved_was_trained(buffer: str) -> None:
    model = TinyResidualConcat()
    getattr(model.bn1, buffer)[2] = 0.5
    assert were_trained(model) is True


def test_one_pass_in_training_mode_counts_as_training() -> None:
    model = TinyResidualConcat().train()
    model(example(TinyResidualConcat))
    assert were_trained(model) is True
