"""Channels chosen for the correction, against all refits done one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from structprune.pruning.surgery import shrink
from structprune.reconstruction import channel_selection as choosing
from structprune.reconstruction import rechoose, rechooses, reconstruct, reconstruction_on
from structprune.reconstruction.channel_selection import rechosen
from structprune.reconstruction.im2col import as_columns, bias_of, columns, draw_places, map_sizes, norm_scale
from structprune.reconstruction.methods import distance, outputs
from structprune.reconstruction.normal_equations import RIDGE
from structprune.reconstruction.observed_pass import Fit
from structprune.reconstruction.refittable_layers import readers
from tests.correction.test_least_squares import values_at
from tests.cuts import Cut, every_second, like_trained
from tests.networks import TinyConvBN, TinyMLP, TinyResidualConcat, example
from tests.oracles.state import changed, snapshot

NETWORKS = (TinyMLP, TinyConvBN, TinyResidualConcat)


def cut_of(network: type[TinyMLP | TinyConvBN | TinyResidualConcat], batch: int = 24) -> Cut:
    model = like_trained(network()).double()
    return Cut(model, (example(network, batch, torch.float64),))


def chosen_anew(cut: Cut, chunks: int = 1) -> dict[str, Tensor]:
    whole = copy.deepcopy(cut.dense)
    parts = list(zip(*(x.chunk(chunks) for x in cut.inputs), strict=True))
    fit = Fit(whole, whole, {}, parts, places=10**6)
    return dict(rechosen(fit, cut.groups, cut.plan, readers(whole, cut.inputs)).keep)


class Read:
    """A layer that reads a group: its columns, centred, what it writes of them, and whose column is whose."""

    def __init__(
        self, model: nn.Module, name: str, norm: str | None, inputs: list[list[int]], x: Tensor
    ) -> None:
        layer = model.get_submodule(name)
        read, written = values_at(model, name, x)
        sizes = map_sizes(layer, written)
        places = draw_places(len(x), sizes, 10**6, torch.Generator())
        self.x = columns(layer, read, places, sizes)[0]
        self.x = self.x - self.x.mean(0) * (bias_of(layer) is not None or norm is not None)
        self.w = as_columns(layer)[0]
        if norm is not None:
            self.w = self.w * norm_scale(model.get_submodule(norm))  # type: ignore[arg-type]
        kernel = len(self.w) // (len(self.w) if read.dim() == 2 else read.shape[1])
        self.owned = [[i * kernel + k for i in own for k in range(kernel)] for own in inputs]

    def error(self, gone: set[int]) -> float:
        """What is left once the weights of all other columns are refitted, relative to what is written."""
        lost = {column for channel in gone for column in self.owned[channel]}
        left = [column for column in range(len(self.w)) if column not in lost]
        pull = (RIDGE * self.x.square().sum(0).mean()).sqrt() * torch.eye(len(self.w), dtype=self.x.dtype)
        rows = torch.cat([self.x, pull])
        wanted = rows @ self.w
        found = torch.linalg.lstsq(rows[:, left], wanted).solution
        off = (rows[:, left] @ found - wanted).square().sum()
        return float(off / (self.x @ self.w).square().sum())


def obvious(read: list[Read], count: int) -> set[int]:
    channels = set(range(len(read[0].owned)))
    gone: set[int] = set()
    while len(channels) - len(gone) > count:
        gone.add(min(channels - gone, key=lambda c: sum(layer.error(gone | {c}) for layer in read)))
    return channels - gone


@pytest.mark.parametrize("chunks", [1, 5])
@pytest.mark.parametrize("network", NETWORKS)
def test_channels_leave_in_the_order_of_the_errors_that_refitting_leaves(
    network: type[TinyMLP | TinyConvBN | TinyResidualConcat], chunks: int
) -> None:
    cut = cut_of(network)
    norms = {reader.name: reader.norm for reader in readers(cut.dense, cut.inputs)}
    keep = chosen_anew(cut, chunks)
    for group in cut.groups:
        read = []
        for row in group.consumers:
            inputs = [
                [c for c, g in zip(row.channels, row.gates, strict=True) if g == n] for n in range(group.size)
            ]
            read.append(Read(cut.dense, row.layer, norms[row.layer], inputs, *cut.inputs))
        expected = obvious(read, int(cut.plan.keep[group.name].sum()))
        assert set(torch.nonzero(keep[group.name]).flatten().tolist()) == expected


def test_groups_in_several_parts_are_chosen_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cut_of(TinyConvBN)
    whole = chosen_anew(cut)
    monkeypatch.setattr(choosing, "PRODUCT_BYTES", 1)
    parts = chosen_anew(cut)
    assert all(torch.equal(parts[name], keep) for name, keep in whole.items())


def test_a_channel_that_another_repeats_goes_first() -> None:
    """The third unit writes twice what the first one does: either can stand for both."""
    model = TinyMLP().double()
    with torch.no_grad():
        for tensor in (model.fc1.weight, model.fc1.bias):
            tensor[2] = 2 * tensor[0]
    cut = Cut(model, (example(TinyMLP, 60, torch.float64),))
    cut.plan.keep["fc1"][:] = torch.tensor([True, False, True, True, True, True])
    keep = chosen_anew(cut)["fc1"]
    assert int(keep.sum()) == 5
    assert not (keep[0] and keep[2])


def test_grouped_convolutions_and_layers_too_wide_leave_the_choice_to_the_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    grouped = Cut(model.double(), (torch.randn(20, 3, 6, 6, dtype=torch.float64),))
    keep = chosen_anew(grouped)
    assert torch.equal(keep["0"], grouped.plan.keep["0"])
    monkeypatch.setattr(choosing, "MOST_COLUMNS", 1)
    cut = cut_of(TinyConvBN)
    assert all(torch.equal(keep, cut.plan.keep[name]) for name, keep in chosen_anew(cut).items())


def test_what_stays_is_as_much_as_before_and_nothing_of_the_network_changes() -> None:
    cut = cut_of(TinyResidualConcat, 60)
    before = snapshot(cut.dense.train())
    correction = reconstruction_on("least-squares", cut.inputs, rechooses=True)
    plan = rechoose(cut.dense, cut.groups, cut.plan, correction)
    assert changed(before, snapshot(cut.dense)) == []
    assert {n: int(k.sum()) for n, k in plan.keep.items()} == {
        n: int(k.sum()) for n, k in cut.plan.keep.items()
    }
    same = rechoose(cut.dense, cut.groups, cut.plan, reconstruction_on("least-squares", cut.inputs))
    assert same is cut.plan


def test_it_is_worth_it_on_a_network_whose_channels_repeat_each_other() -> None:
    """Half of the hidden units repeat four others: every second unit is a poor choice."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 3))
    with torch.no_grad():
        for tensor in (model[0].get_parameter("weight"), model[0].get_parameter("bias")):
            tensor[:12] = tensor[12:][torch.arange(12) // 3]
    x = torch.randn(200, 5)
    cut = Cut(model, (x,))
    cut.plan = every_second(cut.groups)
    correction = reconstruction_on("least-squares", (x,), rechooses=True)
    others = (torch.randn(80, 5),)
    reference = outputs(cut.dense, others)
    off = []
    for plan in (cut.plan, rechoose(cut.dense, cut.groups, cut.plan, correction)):
        small = shrink(cut.dense, cut.groups, plan)
        off.append(
            distance(
                outputs(reconstruct(cut.dense, small, cut.groups, plan, correction).model, others), reference
            )
        )
    assert off[1] < off[0]


def test_only_the_default_score_leaves_the_choice_to_the_correction() -> None:
    assert rechooses("least-squares", "ntk_sap+crop")
    assert rechooses("least-squares", "ntk-sap+crop")
    assert not rechooses("least-squares", "crop")
    assert not rechooses("batch-norm", "ntk_sap+crop")
