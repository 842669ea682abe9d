"""Splits, slices, reshapes and new tensors shrink where it is known whose number says how large they are."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structprune.channels import channel_groups
from structprune.channels.counted import Counted, Place, Shape, Term
from structprune.channels.labels import Labels
from structprune.errors import InputError
from structprune.models.results import PLAN, load, save_weights_and_plan, widths_of
from structprune.nn.layers import counted_down
from structprune.pruning.budget import Budget, Plan
from structprune.pruning.surgery import shrink
from tests.offered import assert_cut_right, offered, random_plan
from tests.oracles.wiring import Wired, conv, pooled

divided: Any = torch.split


# What leaves, by how the code says the size ---------------------------------------------------------------


class CrossStage(nn.Module):
    """A half goes through a convolution, and both are read together, as in CSP blocks."""

    def __init__(self, divide: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.divide, self.width, self.twice, self.sizes, self.pair = divide, 8, 16, [8, 8], (8, 8)
        self.a, self.b, self.c = conv(3, 16, 1), conv(8, 8, padding=1), conv(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.divide(self, self.a(x))
        out: Tensor = self.c(torch.cat([p, q, torch.relu(self.b(q))], 1))
        return out


DIVIDED: dict[str, tuple[Callable[[Any, Any], Any], dict[str, Any]]] = {
    # How the code divides 16 channels, and what attributes are once 3 of every 8 are gone.
    "chunk": (lambda s, y: y.chunk(2, 1), {}),
    "torch.chunk": (lambda s, y: torch.chunk(y, chunks=2, dim=1), {}),
    "split by half of the width": (lambda s, y: y.split(y.shape[1] // 2, 1), {}),
    "split by half of a size": (lambda s, y: divided(y, y.size(1) // 2, dim=1), {}),
    "split by an attribute": (lambda s, y: divided(y, s.width, 1), {"width": 5}),
    "split by half an attribute": (lambda s, y: y.split(s.twice // 2, dim=1), {"twice": 10}),
    "split by an attribute twice": (lambda s, y: y.split((s.width, s.width), 1), {"width": 5}),
    "slices up to half of the width": (lambda s, y: (y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]), {}),
    "reshaped": (lambda s, y: y.view(len(y), 2, y.shape[1] // 2, *y.shape[2:]).unbind(1), {}),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_equal_parts_lose_as_many_and_attributes_are_counted_down(name: str) -> None:
    divide, attributes = DIVIDED[name]
    model, x = CrossStage(divide), torch.randn(3, 3, 6, 6)
    groups, nodes = offered(model, x)
    assert nodes == {"a": 16, "b": 8}
    assert_cut_right(model, x, groups)
    (halves,) = (g for g in groups if g.name == "a")
    assert halves.size == 8
    keep = {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups}
    keep["a"][[0, 3, 4]] = False
    small: Any = shrink(model, groups, Plan(keep, Budget(0.0), 0.0))
    assert {a: getattr(small, a) for a in attributes} == attributes
    assert {a for _, a in counted_down(small)} == set(attributes)


APART: dict[str, Callable[[Any, Any], Any]] = {
    "a list": lambda s, y: divided(y, s.sizes, 1),
    "a tuple": lambda s, y: y.split(s.pair, dim=1),
    "an attribute, and what is left": lambda s, y: y.split([s.width, y.shape[1] - s.width], 1),
    "slices up to an attribute": lambda s, y: (y[:, : s.width], y[:, s.width :]),
    "slices behind an ellipsis": lambda s, y: (y[..., : s.width, :, :], y[..., s.width :, :, :]),
}


@pytest.mark.parametrize("name", APART)
def test_parts_that_have_numbers_of_their_own_shrink_apart(name: str) -> None:
    model, x = CrossStage(APART[name]), torch.randn(3, 3, 6, 6)
    groups, nodes = offered(model, x)
    assert nodes == {"a": 16, "b": 8}
    assert sorted(g.size for g in groups) == [8, 8, 8]
    assert_cut_right(model, x, groups)


def test_numbers_in_lists_and_tuples_are_counted_down_each_by_itself() -> None:
    model = CrossStage(APART["a list"])
    groups, _ = offered(model, torch.randn(3, 3, 6, 6))
    keep = {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups}
    keep["a[0]"][:1], keep["a[8]"][:3] = False, False
    small: Any = shrink(model, groups, Plan(keep, Budget(0.0), 0.0))
    assert (small.sizes, model.sizes) == ([7, 5], [8, 8])


HELD: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a size in the code": (lambda s, y: y.split(8, 1), "trial"),
    "sizes in the code": (lambda s, y: y.split([6, 10], 1)[::-1], "unequal parts"),
    "slices in the code": (lambda s, y: (y[:, :8], y[:, 8:]), "sliced"),
    "an attribute that is used otherwise too": (
        lambda s, y: (y / s.width).split(s.width, 1),
        "trial",
    ),
}


@pytest.mark.parametrize("name", HELD)
def test_a_size_that_can_not_follow_holds_its_channels(name: str) -> None:
    divide, reason = HELD[name]
    model, x = CrossStage(divide), torch.randn(3, 3, 6, 6)
    if name == "sizes in the code":
        model.b, model.c = conv(6, 6, padding=1), conv(22, 4, 1)
    groups, nodes = offered(model, x)
    assert "a" not in nodes
    assert any(reason in row.reason for row in groups.protected if row.layer == "a")


class Scaled(nn.Module):
    """Res2Net's way: parts one after the other, each added to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.a, self.c = 4, conv(3, 16, 1), conv(16, 5, 1)
        self.parts = nn.ModuleList(conv(4, 4, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        pieces = divided(self.a(x), self.width, 1)
        done, last = [pieces[0]], pieces[1]
        for i, part in enumerate(self.parts):
            last = torch.relu(part(last if i == 0 else last + pieces[i + 1]))
            done.append(last)
        out: Tensor = self.c(torch.cat(done, 1))
        return out


def test_parts_that_are_added_up_leave_together() -> None:
    model, x = Scaled(), torch.randn(3, 3, 6, 6)
    groups, nodes = offered(model, x)
    assert nodes == {"a": 16, "parts.0": 4, "parts.1": 4, "parts.2": 4}
    assert_cut_right(model, x, groups)


BETWEEN: dict[str, tuple[Callable[[Any, Tensor], Tensor], int]] = {
    "a reshape by an attribute": (lambda s, y: y.view(-1, s.width, 6, 6), 8),
    "a reshape by a shape": (lambda s, y: y.flatten(2).reshape(y.shape), 8),
    "zeros as wide as an attribute": (
        lambda s, y: torch.cat([y, torch.zeros(len(y), s.width, 6, 6, dtype=y.dtype)], 1),
        16,
    ),
    "zeros as wide as half a layer": (
        lambda s, y: torch.cat([y.new_zeros((len(y), s.a.out_channels // 2, 6, 6)), y], 1),
        12,
    ),
    "ones as wide as an attribute": (lambda s, y: y + y.new_ones(s.width, 1, 1), 8),
    "one number, expanded": (lambda s, y: y * torch.full((1,), 2.0).to(y).expand(s.width)[:, None, None], 8),
}


def between(run: Callable[[Any, Tensor], Tensor], inputs: int) -> Wired:
    def forward(s: Any, x: Tensor) -> Tensor:
        out: Tensor = s.head(pooled(s.b(run(s, torch.relu(s.a(x))))))
        return out

    net = Wired(forward, a=conv(3, 8, padding=1), b=conv(inputs, 6, 1), head=nn.Linear(6, 3))
    vars(net)["width"] = 8
    return net


@pytest.mark.parametrize("name", BETWEEN)
def test_what_is_as_wide_as_a_number_shrinks_with_it(name: str) -> None:
    model, x = between(*BETWEEN[name]), torch.randn(3, 3, 6, 6)
    groups, nodes = offered(model, x)
    assert nodes == {"a": 8, "b": 6}
    assert_cut_right(model, x, groups)


@pytest.mark.parametrize(
    "run",
    [
        lambda s, y: y + torch.ones(8, 1, 1).to(y),
        lambda s, y: y + torch.arange(s.width).to(y)[:, None, None],
        lambda s, y: y.view(-1, s.width, 6, 6) / s.width,
        lambda s, y: y if y.shape[1] == s.width else 2 * y,
    ],
    ids=["ones in the code", "values that differ", "a divisor", "a comparison"],
)
def test_numbers_that_mean_something_else_protect(run: Callable[[Any, Tensor], Tensor]) -> None:
    _, nodes = offered(between(run, 8), torch.randn(3, 3, 6, 6))
    assert nodes == {"b": 6}


class Decoder(nn.Module):
    """Maps made of a vector, as in a GAN's generator."""

    def __init__(self, maps: nn.Module) -> None:
        super().__init__()
        self.up, self.norm, self.maps = nn.Linear(6, 12 * 16), nn.BatchNorm1d(12 * 16), maps
        self.conv, self.head = conv(12, 7), conv(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.conv(self.maps(torch.relu(self.norm(self.up(x)))))))
        return out


class Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.channels, self.side = 12, 4

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, self.channels, self.side, self.side)


@pytest.mark.parametrize(
    ("maps", "attribute", "cut"),
    [(nn.Unflatten(1, (12, 4, 4)), "unflattened_size", (9, 4, 4)), (Maps(), "channels", 9)],
    ids=["Unflatten", "view"],
)
def test_maps_made_of_a_vector_lose_whole_channels(maps: nn.Module, attribute: str, cut: object) -> None:
    model, x = Decoder(maps), torch.randn(4, 6)
    groups, nodes = offered(model, x)
    assert nodes == {"up": 192, "conv": 7}
    assert_cut_right(model, x, groups)
    keep = {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups}
    keep["up"][[1, 2, 7]] = False
    assert getattr(shrink(model, groups, Plan(keep, Budget(0.0), 0.0)).maps, attribute) == cut


# A result folder ------------------------------------------------------------------------------------------


def saved(folder: Path, dense: nn.Module, small: nn.Module, plan: Plan) -> Path:
    folder.mkdir()
    widths = widths_of(dense, counted_down(small))
    save_weights_and_plan(folder, small, plan, None, (3, 6, 6), dense_widths=widths)
    return folder


def test_counted_numbers_come_back_and_again_after_a_second_cut(tmp_path: Path) -> None:
    dense, x = CrossStage(APART["a list"]).eval(), torch.randn(3, 3, 6, 6)
    groups, _ = offered(dense, x)
    plan = random_plan(groups, 0.4, 0)
    small: Any = shrink(dense, groups, plan).eval()
    once = load(saved(tmp_path / "once", dense, small, plan), model=dense)
    assert isinstance(once.sizes, list)
    assert once.sizes == small.sizes != dense.sizes
    assert torch.equal(once(x), small(x))
    again, _ = offered(once, x)
    keep = {g.name: torch.ones(g.size, dtype=torch.bool) for g in again}
    keep["b"][0] = False
    twice = shrink(once, again, Plan(keep, Budget(0.0), 0.0)).eval()
    loaded = load(saved(tmp_path / "twice", once, twice, Plan(keep, Budget(0.0), 0.0)), model=dense)
    assert loaded.sizes == small.sizes
    assert torch.equal(loaded(x), twice(x))


@pytest.mark.parametrize(
    ("widths", "word"),
    [
        ([9, 8], "there were only"),
        ([8], "there were only"),
        (8, "there were only"),
        ([-1, 8], "whole number"),
    ],
)
def test_a_plan_that_counts_otherwise_is_refused(tmp_path: Path, widths: object, word: str) -> None:
    dense, x = CrossStage(APART["a list"]).eval(), torch.randn(3, 3, 6, 6)
    groups, _ = offered(dense, x)
    plan = random_plan(groups, 0.4, 0)
    folder = saved(tmp_path / "cut", dense, shrink(dense, groups, plan), plan)
    fields = json.loads((folder / PLAN).read_text())
    fields["widths"][""]["sizes"] = widths
    (folder / PLAN).write_text(json.dumps(fields))
    with pytest.raises(InputError, match=word):
        load(folder, model=dense)


def test_a_plan_that_names_a_number_that_no_module_has_is_refused(tmp_path: Path) -> None:
    dense, x = CrossStage(APART["a list"]).eval(), torch.randn(3, 3, 6, 6)
    groups, _ = offered(dense, x)
    plan = random_plan(groups, 0.4, 0)
    folder = saved(tmp_path / "cut", dense, shrink(dense, groups, plan), plan)
    fields = json.loads((folder / PLAN).read_text())
    for title in ("widths", "dense_widths"):
        fields[title][""]["forward"] = 3
    (folder / PLAN).write_text(json.dumps(fields))
    with pytest.raises(InputError, match="of no layer"):
        load(folder, model=dense)


# Numbers that know whose they are -------------------------------------------------------------------------


def number(size: int, attribute: str = "width") -> Counted:
    return Counted((Term(Place("", attribute), size, LABELS),))


LABELS = Labels()


def test_a_number_is_the_number_that_it_is() -> None:
    a, b = number(12), number(4, "other")
    assert (a, a + b, a * 2, 2 * a, a // 4, a // 5, a - b, a / 8) == (12, 16, 24, 24, 3, 2, 8, 1.5)
    assert [0] * b == [0, 0, 0, 0]
    assert {12: "found"}[a] == "found"
    assert copy.deepcopy(a) is a
    assert torch.zeros(a, 2).shape == (12, 2)


@pytest.mark.parametrize(
    ("made", "terms"),
    [
        (number(12) * 2 // 8, [("width", 3)]),
        (number(12) + number(4, "other"), [("width", 12), ("other", 4)]),
        ((number(12) + number(4, "other")) // 2, [("width", 6), ("other", 2)]),
    ],
)
def test_sums_products_and_fractions_stay_known(made: int, terms: list[tuple[str, int]]) -> None:
    assert isinstance(made, Counted)
    assert [(t.source.attribute, t.value) for t in made.terms if isinstance(t.source, Place)] == terms


@pytest.mark.parametrize("made", [number(12) // 5, number(12) + 1, number(12) - 1, number(12) * 0])
def test_other_numbers_are_nobodys(made: int) -> None:
    assert not isinstance(made, Counted)


def test_a_shape_is_a_shape_to_torch() -> None:
    shape = Shape((2, number(3), 4))
    assert (shape.numel(), shape[1:].numel(), shape.__add__((5,))) == (24, 12, (2, 3, 4, 5))
    assert torch.zeros(shape).shape == torch.zeros(24).view(shape).shape == (2, 3, 4)


class Plain(nn.Module):
    """Takes nothing but plain numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.a, self.b, self.head = 8, nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        if type(self.width) is not int or type(x.shape) is not torch.Size:
            raise TypeError("no number")
        out: Tensor = self.head(torch.relu(self.b(torch.relu(self.a(x)))))
        return out


def test_code_that_takes_nothing_but_plain_numbers_is_traced_with_these() -> None:
    model = Plain()
    _, nodes = offered(model, torch.randn(3, 3))
    assert nodes == {"a": 8, "b": 6}
    assert type(model.width) is int


def test_numbers_of_another_trace_say_nothing() -> None:
    kept: list[int] = []

    def run(s: Any, y: Tensor) -> Tensor:
        kept.append(kept[0] if kept else s.width)
        return y.view(-1, kept[-1], 6, 6)

    model, x = between(run, 8), torch.randn(3, 3, 6, 6)
    channel_groups(model, x)
    assert isinstance(kept[0] if kept else number(8), int)
    assert channel_groups(model, x).nodes == 14
