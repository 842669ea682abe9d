"""Refitted layers against the slow oracle, layer by layer, and what must hold whatever the network is."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structprune.reconstruction import observed_pass as passes
from structprune.reconstruction import targets
from structprune.reconstruction.im2col import bias_of
from structprune.reconstruction.least_squares import refit
from structprune.reconstruction.methods import kept_outputs
from structprune.reconstruction.observed_pass import Fit
from structprune.reconstruction.refittable_layers import Reader, readers
from tests.correction.kinds import KINDS
from tests.cuts import Cut, like_trained
from tests.networks import NETWORKS, Tiny, TinyConvBN, TinyResidualConcat, example
from tests.oracles.refitted import refitted

RIDGE = 0.03
ALL = 10**6


def values_at(model: nn.Module, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer reads and writes."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda _, args, y: seen.append((args[0].clone(), y.clone()))
    )
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


def fit_of(dense: nn.Module, small: nn.Module, x: Tensor, **options: Any) -> Fit:
    return Fit(dense, small, {}, [(x,)], places=ALL, ridge=RIDGE, **options)


def without_bias(layer: nn.Module, y: Tensor) -> Tensor:
    bias = bias_of(layer)
    if bias is None:
        return y
    return y - (bias if isinstance(layer, nn.Linear) else bias.reshape(-1, *(1,) * (y.dim() - 2)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", KINDS)
def test_a_layer_of_each_kind_is_what_the_oracle_says(name: str) -> None:
    """The shrunk network differs from the dense one in what the layer reads."""
    layer, x = KINDS[name].layer().double(), torch.randn(*KINDS[name].shape, dtype=torch.float64)
    dense, small = nn.Sequential(nn.ReLU(), layer), nn.Sequential(nn.Tanh(), copy.deepcopy(layer))
    read, (_, wanted) = torch.tanh(x), values_at(dense, "1", x)
    has_bias = bias_of(layer) is not None
    weight, constants = refitted(layer, read, without_bias(layer, wanted), RIDGE, has_bias)
    assert refit(fit_of(dense, small, x), readers(small, (x[:2],))) == ["1"]
    torch.testing.assert_close(small[1].get_parameter("weight").detach(), weight)
    if has_bias:
        moved = small[1].get_parameter("bias") - layer.get_parameter("bias")
        torch.testing.assert_close(moved.detach(), constants)


def test_an_offset_goes_into_the_batch_norm_that_alone_reads_it() -> None:
    conv, norm = nn.Conv2d(3, 4, 3, bias=False).double(), like_trained(nn.BatchNorm2d(4).double())
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    dense = nn.Sequential(nn.ReLU(), conv, norm).eval()
    small = nn.Sequential(nn.Tanh(), *copy.deepcopy([conv, norm])).eval()
    weight, constants = refitted(conv, torch.tanh(x), values_at(dense, "1", x)[1], RIDGE, True)
    refit(fit_of(dense, small, x), readers(small, (x[:2],)))
    torch.testing.assert_close(small[1].get_parameter("weight").detach(), weight)
    lowered = norm.get_buffer("running_mean") - small[2].get_buffer("running_mean")
    torch.testing.assert_close(lowered, constants)


class NormAndMore(nn.Module):
    """A batch norm reads what the convolution writes, and so does a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        out: Tensor = self.norm(y) + y
        return out


def test_an_offset_goes_nowhere_where_others_read_it_too() -> None:
    (reader,) = readers(NormAndMore().eval(), (torch.randn(2, 3, 5, 5),))
    assert (reader.norm, reader.closes) == (None, False)


# ---- whole networks, cut


def cut_of(network: type[Tiny], batch: int = 24) -> Cut:
    return Cut(like_trained(network()).double(), (example(network, batch, torch.float64),))


def fitted(cut: Cut, found: Sequence[Reader], chunks: int = 1, **options: Any) -> tuple[nn.Module, list[str]]:
    small = copy.deepcopy(cut.small)
    kept = kept_outputs(cut.dense, cut.groups, cut.plan)
    parts = list(zip(*(x.chunk(chunks) for x in cut.inputs), strict=True))
    fit = Fit(copy.deepcopy(cut.dense), small, kept, parts, places=ALL, ridge=RIDGE)
    return small, refit(replace(fit, **options), found)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_is_what_the_oracle_says_with_those_before_it_refitted(network: type[Tiny]) -> None:
    cut = cut_of(network)
    kept = kept_outputs(cut.dense, cut.groups, cut.plan)
    found = readers(cut.small, cut.inputs)
    for number, reader in enumerate(found):
        before, after = (fitted(cut, found[:n], sums=False)[0] for n in (number, number + 1))
        layer, name = before.get_submodule(reader.name), reader.name
        read, _ = values_at(before, name, *cut.inputs)
        _, wanted = values_at(cut.dense, name, *cut.inputs)
        wanted = wanted[:, kept[name]] if name in kept else wanted
        has_offset = bias_of(layer) is not None or reader.norm is not None
        weight, _ = refitted(layer, read, without_bias(layer, wanted), RIDGE, has_offset)
        torch.testing.assert_close(after.get_submodule(name).get_parameter("weight").detach(), weight)


def test_what_closes_a_sum_is_fitted_to_the_sum() -> None:
    cut = cut_of(TinyResidualConcat)
    kept = kept_outputs(cut.dense, cut.groups, cut.plan)["stem"]
    found = readers(cut.small, cut.inputs)
    names = [reader.name for reader in found]
    assert [reader.name for reader in found if reader.closes] == ["residual"]
    until = found[: names.index("residual")]
    before, after = fitted(cut, until)[0], fitted(cut, [*until, found[len(until)]])[0]
    stream, _ = values_at(before, "residual", *cut.inputs)
    dense_stream, _ = values_at(cut.dense, "residual", *cut.inputs)
    _, dense_branch = values_at(cut.dense, "bn1", *cut.inputs)
    missing = (dense_stream + dense_branch)[:, kept] - stream
    norm = before.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    scale = norm.get_parameter("weight") / (norm.get_buffer("running_var") + norm.eps).sqrt()
    shape = (-1, 1, 1)
    wanted = (missing - norm.get_parameter("bias").reshape(shape)) / scale.reshape(shape)
    wanted = wanted.detach() + norm.get_buffer("running_mean").reshape(shape)
    weight, constants = refitted(before.get_submodule("residual"), stream, wanted, RIDGE, True)
    torch.testing.assert_close(after.get_parameter("residual.weight").detach(), weight)
    lowered = norm.get_buffer("running_mean") - after.get_buffer("bn1.running_mean")
    torch.testing.assert_close(lowered, constants)


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_chunks_give_what_one_pass_gives(network: type[Tiny], sums: bool) -> None:
    cut = cut_of(network)
    found = readers(cut.small, cut.inputs)
    whole, parts = (fitted(cut, found, chunks=n, sums=sums) for n in (1, 5))
    assert whole[1] == parts[1]
    torch.testing.assert_close(weights(parts[0]), weights(whole[0]), rtol=1e-6, atol=1e-8)


def test_targets_in_several_parts_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cut_of(TinyConvBN)
    found = readers(cut.small, cut.inputs)
    whole, _ = fitted(cut, found)
    monkeypatch.setattr(targets, "TARGET_BYTES", 1)
    parts, _ = fitted(cut, found)
    torch.testing.assert_close(weights(parts), weights(whole))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_that_writes_what_it_should_stays_bit_for_bit(network: type[Tiny]) -> None:
    dense = like_trained(network()).eval()
    small, x = copy.deepcopy(dense), example(network, 16)
    assert refit(Fit(copy.deepcopy(dense), small, {}, [(x,)]), readers(small, (x,))) == []
    assert all(
        torch.equal(x, y) for x, y in zip(weights(small).values(), weights(dense).values(), strict=True)
    )


def test_few_places_of_a_map_are_enough_to_come_near() -> None:
    cut = cut_of(TinyConvBN, 64)
    found = readers(cut.small, cut.inputs)
    every, some = (fitted(cut, found, places=places)[0] for places in (ALL, 6))
    with torch.no_grad():
        wanted, *others = (net(*cut.inputs) for net in (cut.dense, cut.small, every, some))
    raw, best, sampled = (float((y - wanted).square().mean()) for y in others)
    assert max(best, sampled) < raw / 2
    assert passes.PLACES > 6


class Shared(nn.Module):
    """A layer called twice, one whose weight another shares, one that is recurrent, and one that is plain."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.twice = nn.Linear(6, 6)
        self.tied, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        self.other.weight = self.tied.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.rnn = nn.GRU(6, 6, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.read = nn.Linear(6, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normed(self.other(self.tied(self.twice(self.twice(self.first(x))))))
        x = self.attention(x, x, x)[0]
        x = nn.functional.linear(self.read(x), self.read.weight)
        out: Tensor = self.last(self.rnn(x)[0])
        return out


def test_only_layers_with_a_weight_of_their_own_that_run_once_are_refitted() -> None:
    assert [r.name for r in readers(Shared().eval(), (torch.randn(2, 3, 6),))] == ["first", "last"]


class InPlace(nn.Module):
    """Sums taken in place, once behind a shortcut that runs last, as in torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.main, self.short = (nn.Conv2d(3, 3, 1, bias=False) for _ in range(3))
        self.norm = nn.BatchNorm2d(3)
        self.again = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.main(x)
        y += self.norm(self.short(x))
        y = self.relu(y)
        z: Tensor = self.again(y)
        z += y
        out: Tensor = self.relu(z)
        return out


def test_the_later_branch_closes_a_sum_taken_in_place_and_is_settled_there() -> None:
    found = readers(InPlace().eval(), (torch.randn(2, 3, 4, 4),))
    assert [(r.name, r.norm, r.closes) for r in found] == [
        ("stem", None, False),
        ("main", None, False),
        ("short", "norm", True),
        ("again", None, True),
    ]


def test_sums_taken_in_place_are_made_good() -> None:
    dense = like_trained(InPlace()).double().eval()
    small = copy.deepcopy(dense)
    x = torch.randn(40, 3, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        small.get_parameter("main.weight").mul_(0.7)
        found = [r for r in readers(small, (x,)) if r.closes]
        before = (small(x) - dense(x)).square().mean()
        assert refit(Fit(dense, small, {}, [(x,)], places=ALL, ridge=1e-9), found) == ["short"]
        assert (small(x) - dense(x)).square().mean() < 1e-6 * before
