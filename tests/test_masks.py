from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from structprune.errors import InputError, TargetUnreachableError
from structprune.pruning.masks import (
    collapsed,
    folded,
    kept_count,
    masked,
    masks_of,
    select_weights,
    sparsity,
    unmasked,
)
from tests.networks import NETWORKS, Tiny, TinyConvBN, TinyMLP, example


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.dim() > 1}


def half(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.rand(w.shape) < 0.5 for name, w in weights_of(model).items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_masked_network_is_the_one_with_zeros(network: type[Tiny]) -> None:
    model = network().eval()
    keep, x = half(model), example(network)
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in keep.items():
            by_hand.get_parameter(name).mul_(mask)
        assert torch.equal(masked(model, keep).eval()(x), by_hand(x))
        assert torch.equal(folded(masked(model, keep)).eval()(x), by_hand(x))


def test_the_network_that_is_masked_stays_as_it_is() -> None:
    model = TinyConvBN()
    before = {name: w.clone() for name, w in weights_of(model).items()}
    masked(model, half(model))
    assert masks_of(model) == {}
    assert all(torch.equal(w, before[name]) for name, w in weights_of(model).items())


def test_masks_come_back() -> None:
    model = TinyConvBN()
    keep = half(model)
    found = masks_of(masked(model, keep))
    assert set(found) == set(keep)
    assert all(torch.equal(found[name], keep[name]) for name in keep)


def test_folding_leaves_plain_layers_and_the_masked_network_as_it_is() -> None:
    model = TinyConvBN()
    net = masked(model, half(model))
    twin, x = copy.deepcopy(net).eval(), example(TinyConvBN)
    plain = folded(net)
    assert [type(m) for m in plain.modules()] == [type(m) for m in model.modules()]
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert set(plain.state_dict()) == set(model.state_dict())
    # torch's own removal takes the weight off every copy of the layer.
    assert torch.equal(net.eval()(x), twin(x))
    assert torch.equal(net(x), plain.eval()(x))


def test_what_lies_under_the_masks_comes_back_too() -> None:
    model = TinyConvBN()
    below = weights_of(unmasked(masked(model, half(model))))
    assert all(torch.equal(w, below[name]) for name, w in weights_of(model).items())


def test_training_leaves_masked_weights_at_zero() -> None:
    model = TinyConvBN()
    keep = half(model)
    net = masked(model, keep).train()
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        net(example(TinyConvBN)).square().sum().backward()
        sgd.step()
    after = weights_of(folded(net))
    for name, mask in keep.items():
        assert torch.count_nonzero(after[name][~mask]) == 0
        assert not torch.equal(after[name], weights_of(model)[name] * mask)


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=30), min_size=1, max_size=4),
    st.floats(0, 0.99),
)
@settings(max_examples=200, deadline=None)
def test_exactly_the_share_that_was_asked_stays_and_ties_go_by_position(
    rows: list[list[int]], remove: float
) -> None:
    scores = {str(i): torch.tensor(row, dtype=torch.float32) for i, row in enumerate(rows)}
    flat = [value for row in rows for value in row]
    kept = kept_count(len(flat), remove)
    if kept == 0:
        with pytest.raises(TargetUnreachableError):
            select_weights(scores, remove)
        return
    found = torch.cat(list(select_weights(scores, remove).values())).tolist()
    best = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[:kept]
    assert [i for i, stays in enumerate(found) if stays] == sorted(best)


@pytest.mark.parametrize(
    ("weights", "remove", "kept"), [(10, 0.5, 5), (3, 0.5, 2), (1000, 0.98, 20), (7, 0.0, 7), (10, 0.99, 0)]
)
def test_how_many_stay(weights: int, remove: float, kept: int) -> None:
    assert kept_count(weights, remove) == kept


def test_what_is_gone_stays_gone_where_its_score_is_minus_infinity() -> None:
    scores = {"w": torch.tensor([-torch.inf, 3.0, 1.0, -torch.inf])}
    assert select_weights(scores, 0.5)["w"].tolist() == [False, True, True, False]


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        select_weights({"w": torch.tensor([1.0, torch.nan])}, 0.5)


def test_layers_without_any_weight_are_named() -> None:
    masks = {"a.weight": torch.zeros(2, 2, dtype=torch.bool), "b.weight": torch.tensor([[True, False]])}
    assert collapsed(masks) == ("a",)
    assert sparsity(masks) == pytest.approx(5 / 6)
    assert (collapsed({}), sparsity({})) == ((), 0.0)


def test_a_mask_is_of_some_layers_only() -> None:
    model = TinyMLP()
    name = next(iter(weights_of(model)))
    assert set(masks_of(masked(model, {name: half(model)[name]}))) == {name}
