"""Layers and operations of common networks: what they offer, and that a cut is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from structprune.channels import channel_groups
from structprune.models.results import load, save_weights_and_plan, widths_of
from structprune.nn.layers import in_width, out_width, recurrent_reads
from structprune.pruning.budget import Budget, Plan, reachable
from structprune.pruning.surgery import shrink
from structprune.scoring.samples import random_samples
from structprune.scoring.score import Scoring, score
from tests.offered import assert_cut_right, offered, random_plan
from tests.oracles.wiring import Wired, conv, pooled

# Norms ----------------------------------------------------------------------------------------------------

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


@pytest.mark.parametrize(
    ("dims", "affine", "tracked"),
    [(1, False, False), (2, True, False), (2, False, False), (2, False, True), (3, True, True)],
)
def test_an_instance_norm_follows_its_channels(
    dims: int, affine: bool, tracked: bool, tmp_path: Path
) -> None:
    norm = NORMS[dims](8, affine=affine, track_running_stats=tracked)
    model = nn.Sequential(CONVS[dims](3, 8, 3), norm, nn.ReLU(), CONVS[dims](8, 2, 1)).eval()
    x = torch.randn(3, 3, *range(5, 5 + dims))
    groups, nodes = offered(model, x)
    assert nodes == {"0": 8}
    if affine and tracked:
        assert_cut_right(model, x, groups)
    plan = random_plan(groups, 0.4, 0)
    small: Any = shrink(model, groups, plan).eval()
    assert small[1].num_features == small[0].out_channels == 5
    save_weights_and_plan(tmp_path, small, plan, None, (3, *x.shape[2:]), dense_widths=widths_of(model))
    assert torch.equal(load(tmp_path, model=model)(x), small(x))


@pytest.mark.parametrize("norm", [nn.GroupNorm(4, 8, affine=False), nn.BatchNorm2d(8, affine=False)])
def test_a_norm_without_numbers_of_its_own_is_as_wide_as_what_it_norms(norm: nn.Module) -> None:
    model = nn.Sequential(conv(3, 8), norm, nn.ReLU(), conv(8, 2, 1))
    groups, nodes = offered(model, torch.randn(3, 3, 6, 6))
    assert nodes == {"0": 8}
    small: Any = shrink(model, groups, random_plan(groups, 0.5, 0))
    assert 4 in (getattr(small[1], "num_features", 0), getattr(small[1], "num_channels", 0))


def test_each_part_of_a_concat_has_its_own_share_of_a_group_norm() -> None:
    model = Wired(
        lambda s, x: s.head(s.norm(torch.cat([s.a(x), s.b(x)], 1)).relu()),
        a=conv(3, 16, padding=1),
        b=conv(3, 24, padding=1),
        norm=nn.GroupNorm(5, 40),
        head=conv(40, 4, 1),
    )
    x = torch.randn(3, 3, 6, 6)
    groups, nodes = offered(model, x)
    assert nodes == {"a": 16, "b": 24}
    assert [g.size for g in groups] == [2, 3]
    assert_cut_right(model, x, groups)
    keep = {"a": torch.tensor([True, False]), "b": torch.tensor([False, True, False])}
    small: Any = shrink(model, groups, Plan(keep, Budget(0.0), 0.0))
    assert (small.norm.num_groups, small.norm.num_channels) == (2, 16)


class Level(nn.Module):
    """One resolution of a diffusion U-Net: every skip meets a GroupNorm behind a concat."""

    def __init__(self, wide: int, deep: int, groups: int) -> None:
        super().__init__()
        self.first, self.down = conv(3, wide, padding=1), conv(wide, deep, stride=2, padding=1)
        self.inner, self.norm1 = conv(deep, deep, padding=1), nn.GroupNorm(groups, deep)
        self.norm2, self.up = nn.GroupNorm(groups, deep + wide), conv(deep + wide, wide, padding=1)
        self.norm3, self.last = nn.GroupNorm(groups, wide), conv(wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.first(x)
        y = self.down(skip)
        y = y + self.inner(F.silu(self.norm1(y)))
        y = torch.cat([F.interpolate(y, scale_factor=2.0), skip], 1)
        out: Tensor = self.last(F.silu(self.norm3(self.up(F.silu(self.norm2(y))))))
        return out


def test_skips_of_a_diffusion_unet_are_cut() -> None:
    model, x = Level(32, 64, 32), torch.randn(3, 3, 8, 8)
    groups, nodes = offered(model, x)
    assert nodes == {"first": 32, "down": 64, "inner": 64, "up": 32}
    assert reachable(groups, Budget(0.0)) > 0.85
    assert_cut_right(model, x, groups)


# Grouped convolutions -------------------------------------------------------------------------------------


class SplitAttention(nn.Module):
    """ResNeSt's block: the halves of a grouped convolution's outputs are weighed against each other."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8, padding=1), conv(8, 16, padding=1, groups=groups)
        self.down, self.up, self.c = conv(8, 4, 1), conv(4, 16, 1), conv(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.b(torch.relu(self.a(x))))
        n, c, *space = y.shape
        parts = y.reshape(n, 2, c // 2, *space)
        weights = self.up(torch.relu(self.down(parts.sum(1).mean((2, 3), keepdim=True))))
        shares = weights.view(n, 2, -1, 1, 1).softmax(1)
        out: Tensor = self.c((parts * shares).sum(1))
        return out


@pytest.mark.parametrize(("groups", "divisors"), [(1, (1, 1)), (2, (2, 1)), (4, (4, 2))])
def test_conv_groups_that_meet_the_same_channels_equally_often(
    groups: int, divisors: tuple[int, int]
) -> None:
    model, x = SplitAttention(groups), torch.randn(3, 3, 6, 6)
    found, nodes = offered(model, x)
    assert nodes == {"a": 8, "b": 16, "down": 4, "up": 16}
    by_name = {g.name: g for g in found}
    assert (by_name["a"].divisor, by_name["b"].divisor) == divisors
    assert_cut_right(model, x, found, 0.4)


# Operations between two convolutions ----------------------------------------------------------------------


def grid(y: Tensor) -> Tensor:
    lines = torch.linspace(-1, 1, 5).to(y)
    return torch.stack(torch.meshgrid(lines, lines, indexing="ij"), -1).expand(len(y), -1, -1, -1)


ROWS = torch.tensor([3, 0, 0, 5, 1, 2])
FIVES = (torch.arange(8) % 5)[None, :, None, None]
Operation = Callable[[Any, Tensor], Tensor]

FOLLOWED: dict[str, tuple[Operation, int]] = {
    "glu": (lambda s, y: F.glu(y, 1), 4),
    "grid_sample": (lambda s, y: F.grid_sample(y, grid(y), align_corners=False), 8),
    "circular padding": (lambda s, y: F.pad(y, (1, 2, 0, 1), mode="circular"), 8),
    "index_add in space": (lambda s, y: torch.zeros_like(y).index_add(2, ROWS, y), 8),
    "index_add to new zeros": (lambda s, y: y.new_zeros(y.shape).index_add_(3, ROWS, y), 8),
    "index_copy in space": (lambda s, y: (2 * y).index_copy(2, torch.arange(5), y[:, :, :5]), 8),
    "scatter_add in space": (lambda s, y: torch.zeros_like(y).scatter_add(3, ROWS.expand(y.shape), y), 8),
    "rows put in": (lambda s, y: y.index_put((torch.tensor([1, 0]),), 2 * y[:2]), 8),
    "a mask put in": (lambda s, y: y.masked_fill(y < 0.1, 0.5).index_put((y > 1,), torch.ones(()).to(y)), 8),
    "einsum, weighed": (lambda s, y: torch.einsum("nchw,nc->nchw", y, pooled(y)), 8),
    "einsum over space": (lambda s, y: torch.einsum("nchw->nc", y)[..., None, None], 8),
    "chunk in four": (lambda s, y: sum(y.chunk(4, 1), torch.zeros(()).to(y)), 2),
    "a GRU's gates": (lambda s, y: torch.mul(*(g.sigmoid() for g in y.chunk(2, 1))), 4),
}


def between(run: Operation, inputs: int) -> Wired:
    def forward(s: Any, x: Tensor) -> Tensor:
        out: Tensor = s.head(pooled(s.b(run(s, torch.relu(s.a(x))))))
        return out

    return Wired(forward, a=conv(3, 8, padding=1), b=conv(inputs, 6, 1), head=nn.Linear(6, 3))


@pytest.mark.parametrize("name", FOLLOWED)
def test_operations_that_keep_channels_apart_let_them_leave(name: str) -> None:
    model, x = between(*FOLLOWED[name]), torch.randn(3, 3, 6, 6)
    groups, nodes = offered(model, x)
    assert nodes == {"a": 8, "b": 6}
    assert_cut_right(model, x, groups)


MIXED: dict[str, tuple[Operation, int, str]] = {
    "local response norm": (lambda s, y: F.local_response_norm(y, 3), 8, "local_response_norm"),
    "index_add of channels": (
        lambda s, y: torch.zeros_like(y).index_add(1, torch.arange(8) % 5, y),
        8,
        "index_add",
    ),
    "scatter_add of channels": (
        lambda s, y: torch.zeros_like(y).scatter_add(1, FIVES.expand(len(y), -1, 6, 6), y),
        8,
        "scatter_add",
    ),
    "unbind": (lambda s, y: torch.stack(y.unbind(1)[::-1], 1), 8, "unbind"),
    "einsum of all pairs": (lambda s, y: torch.einsum("nchw,ndhw->ncd", y, y)[..., None], 8, ""),
    "a grid": (
        lambda s, y: F.grid_sample(y, y[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False),
        8,
        "sliced",
    ),
    "chunks of unequal size": (lambda s, y: torch.cat(y.chunk(3, 1)[::-1], 1), 8, "unequal"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_operations_that_mix_channels_are_named(name: str) -> None:
    run, inputs, word = MIXED[name]
    groups, nodes = offered(between(run, inputs), torch.randn(3, 3, 6, 6))
    assert nodes == {"b": 6}
    (reason,) = (row.reason for row in groups.protected if row.layer == "a")
    assert word in reason


def test_circular_padding_of_a_layer_is_as_any_other() -> None:
    layers = [conv(3, 8), nn.ReLU(), conv(8, 6, padding=1, padding_mode="circular"), nn.ReLU(), conv(6, 3, 1)]
    model, x = nn.Sequential(*layers), torch.randn(3, 3, 6, 8)
    groups, nodes = offered(model, x)
    assert nodes == {"0": 8, "2": 6}
    assert_cut_right(model, x, groups)


# Recurrent cells ------------------------------------------------------------------------------------------

WIDE: dict[str, Callable[[Any], int]] = {
    "an attribute": lambda s: s.hidden,
    "the cell's own": lambda s: s.cell.hidden_size,
    "a number in the code": lambda s: 8,
}


class Stepped(nn.Module):
    """A cell that is stepped by hand, or a layer, from no state or from zeros."""

    def __init__(self, cell: nn.Module, wide: str | None = None) -> None:
        super().__init__()
        self.hidden, self.wide, self.cell = 8, wide, cell
        self.embed, self.head = nn.Linear(3, 6), nn.Linear(8, 3)

    def first(self, x: Tensor) -> Any:
        if self.wide is None:
            return None
        layers = () if isinstance(self.cell, nn.RNNCellBase) else (1,)
        zeros = torch.zeros(*layers, len(x), WIDE[self.wide](self), dtype=x.dtype)
        has_two = isinstance(self.cell, (nn.LSTMCell, nn.LSTM))
        return (zeros, x.new_zeros(*layers, len(x), WIDE[self.wide](self))) if has_two else zeros

    def forward(self, x: Tensor) -> Tensor:
        state = self.first(x)
        if isinstance(self.cell, nn.RNNBase):
            states, _ = self.cell(torch.tanh(self.embed(x)), state)
            last = states[:, -1]
        else:
            for step in x.unbind(1):
                state = self.cell(torch.tanh(self.embed(step)), state)
            last = state[0] if isinstance(state, tuple) else state
        out: Tensor = self.head(last)
        return out


CELLS: dict[str, Callable[[], nn.Module]] = {
    "LSTMCell": lambda: nn.LSTMCell(6, 8),
    "GRUCell": lambda: nn.GRUCell(6, 8, bias=False),
    "RNNCell": lambda: nn.RNNCell(6, 8),
    "LSTM": lambda: nn.LSTM(6, 8, batch_first=True),
    "GRU": lambda: nn.GRU(6, 8, batch_first=True),
}


@pytest.mark.parametrize(
    ("cell", "wide"),
    [
        ("LSTMCell", None),
        ("LSTMCell", "an attribute"),
        ("GRUCell", "the cell's own"),
        ("RNNCell", None),
        ("LSTM", "an attribute"),
        ("GRU", "the cell's own"),
    ],
)
def test_units_of_cells_leave_whatever_zeros_they_begin_with(cell: str, wide: str | None) -> None:
    model, x = Stepped(CELLS[cell](), wide), torch.randn(4, 5, 3)
    groups, nodes = offered(model, x)
    assert nodes == {"embed": 6, "cell": 8}
    assert_cut_right(model, x, groups)
    small: Any = shrink(model, groups, random_plan(groups, 0.4, 0))
    assert small.cell.hidden_size == small.head.in_features < 8
    assert small.hidden == (small.cell.hidden_size if wide == "an attribute" else 8)


@pytest.mark.parametrize("cell", ["LSTMCell", "GRU"])
def test_a_state_of_a_width_in_the_code_holds_the_units(cell: str) -> None:
    groups, nodes = offered(Stepped(CELLS[cell](), "a number in the code"), torch.randn(4, 5, 3))
    assert nodes == {"embed": 6}
    assert any("first state" in row.reason for row in groups.protected if row.layer == "cell")


def test_a_cell_reads_its_inputs_then_its_units() -> None:
    cell = nn.GRUCell(3, 2)
    assert (out_width(cell), in_width(cell)) == (2, 5)
    reads = {name: columns.tolist() for name, columns in recurrent_reads(cell).items()}
    assert reads == {"weight_ih": [0, 1, 2], "weight_hh": [3, 4]}


@pytest.mark.parametrize("criterion", ["ntk_sap+crop", "filter_norm"])
def test_cells_are_scored(criterion: str) -> None:
    model, x = Stepped(nn.LSTMCell(6, 8)), torch.randn(4, 5, 3)
    groups, _ = offered(model, x)
    found = score(model, groups, random_samples(model, (x,), 16), Scoring(criterion, draws=2))
    assert {n: v.numel() for n, v in found.values.items()} == {"embed": 6, "cell": 8}


class ConvCell(nn.Module):
    """A convolutional LSTM cell whose states begin with zeros."""

    def __init__(self, inputs: int, hidden: int, by_attribute: bool) -> None:
        super().__init__()
        self.hidden, self.by_attribute = hidden, by_attribute
        self.gates = conv(inputs + hidden, 4 * hidden, padding=1)

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = self.hidden if self.by_attribute else self.gates.out_channels // 4
        zeros = torch.zeros(len(x), wide, *x.shape[-2:], dtype=x.dtype)
        return zeros, zeros

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        gates = self.gates(torch.cat([x, h], 1))
        i, f, o, g = torch.split(gates, self.hidden, 1) if self.by_attribute else gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class ConvLSTM(nn.Module):
    def __init__(self, by_attribute: bool) -> None:
        super().__init__()
        self.encode = conv(3, 6, padding=1)
        self.cells: Any = nn.ModuleList([ConvCell(6, 8, by_attribute), ConvCell(8, 4, by_attribute)])
        self.head = conv(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        states = [cell.begin(x) for cell in self.cells]
        for step in x.unbind(1):
            y = torch.relu(self.encode(step))
            for i, cell in enumerate(self.cells):
                states[i] = cell(y, states[i])
                y = states[i][0]
        out: Tensor = self.head(y)
        return out


@pytest.mark.parametrize("by_attribute", [True, False])
def test_hidden_channels_of_a_conv_lstm_leave_in_fours(by_attribute: bool) -> None:
    model, x = ConvLSTM(by_attribute), torch.randn(3, 2, 3, 6, 6)
    groups, nodes = offered(model, x)
    assert nodes == {"encode": 6, "cells.0.gates": 32, "cells.1.gates": 16}
    assert {g.name: g.costs[0] for g in groups} == {"encode": 1, "cells.0.gates": 4, "cells.1.gates": 4}
    assert_cut_right(model, x, groups)


# What is not cut ------------------------------------------------------------------------------------------


class Scarcely(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.pairs, self.ids = nn.Linear(4, 8), nn.Bilinear(8, 8, 6), nn.Embedding(10, 6)
        self.mixing, self.scale = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.ones(6))
        self.norm, self.head = nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        y = self.pairs(y, y) * self.scale + self.ids(torch.arange(len(x)))
        out: Tensor = self.head(self.norm(y @ self.mixing))
        return out


def test_weights_of_other_kinds_are_listed_with_their_class() -> None:
    protected = {row.layer: row.reason for row in channel_groups(Scarcely(), torch.randn(2, 4)).protected}
    assert {name for name in protected if name not in ("a", "head")} == {"pairs", "ids", "mixing"}
    assert "Bilinear" in protected["pairs"]
    assert "Embedding" in protected["ids"]
    assert "Scarcely" in protected["mixing"]


def test_weights_that_leave_with_channels_are_not_listed() -> None:
    model = Wired(
        lambda s, x: s.head(torch.relu(s.a(x)) * s.places[: x.shape[1]]),
        a=nn.Linear(4, 8),
        places=nn.Parameter(torch.randn(7, 8)),
        head=nn.Linear(8, 3),
    )
    groups = channel_groups(model, torch.randn(2, 5, 4))
    assert [g.name for g in groups] == ["a"]
    assert {row.layer for row in groups.protected} == {"head"}
