"""What initialisers leave, drawn as they draw it, and what a step of low rank makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from structprune.nn.initial import is_bias_initial, is_constant, is_weight_initial

INITIALISERS: dict[str, Callable[[Tensor], object]] = {
    "torch's own": lambda w: nn.init.kaiming_uniform_(w, math.sqrt(5)),
    "kaiming normal": nn.init.kaiming_normal_,
    "xavier uniform": nn.init.xavier_uniform_,
    "xavier normal": nn.init.xavier_normal_,
    "0.02": lambda w: nn.init.normal_(w, std=0.02),
    "cut at two": lambda w: nn.init.trunc_normal_(w, std=1.0),
    "orthogonal": nn.init.orthogonal_,
    "from 0 to 1": nn.init.uniform_,
}
SHAPES = [(8, 16), (64, 64), (10, 300), (32, 16, 3, 3), (48, 1, 5, 5)]


def drawn(initialiser: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    weight = torch.empty(shape)
    INITIALISERS[initialiser](weight)
    return weight


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("initialiser", INITIALISERS)
def test_what_was_drawn_alike_is_seen_as_such_at_any_scale(initialiser: str, shape: tuple[int, ...]) -> None:
    for seed in range(3):
        weight = drawn(initialiser, shape, seed)
        assert is_weight_initial(weight) is True
        assert is_weight_initial(1e-3 * weight) is True


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("initialiser", INITIALISERS)
def test_in_any_precision(initialiser: str, kind: torch.dtype) -> None:
    assert is_weight_initial(drawn(initialiser, (256, 128)).to(kind)) is True


@pytest.mark.parametrize("initialiser", [name for name in INITIALISERS if name != "from 0 to 1"])
def test_a_direction_of_its_own_shows(initialiser: str) -> None:
    weight = drawn(initialiser, (64, 64))
    step = torch.outer(torch.randn(64), torch.randn(64))
    assert is_weight_initial(weight + 0.7 * weight.std() * step) is False


@pytest.mark.parametrize("axis", [0, 1])
def test_larger_rows_or_columns_show(axis: int) -> None:
    sizes = torch.linspace(0.5, 1.5, 64)
    assert is_weight_initial(drawn("0.02", (64, 64)) * (sizes[:, None] if axis == 0 else sizes)) is False


def test_heavy_tails_show() -> None:
    assert is_weight_initial(drawn("0.02", (64, 64)) ** 3) is False


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(64, 64), torch.eye(64), torch.ones(9, 4, 4), torch.randn(4, 4), torch.full((64, 64), 0.3)],
    ids=["zeros", "identity", "ones", "few", "one value"],
)  # fmt: skip
def test_what_was_written_or_is_small_tells_nothing(weight: Tensor) -> None:
    assert is_weight_initial(weight) is None


@pytest.mark.parametrize(
    "bias",
    [
        torch.zeros(32),
        torch.full((32,), -4.6),
        torch.cat([torch.zeros(8), torch.ones(8), torch.zeros(16)]),
        torch.empty(32).uniform_(-0.25, 0.25, generator=torch.Generator().manual_seed(0)),
        1e-6 * torch.randn(32, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["zeros", "a prior", "a forget gate", "torch's own", "nearly zero"],
)
def test_biases_as_initialisers_leave_them(bias: Tensor) -> None:
    assert is_bias_initial(bias, [0.25])


@pytest.mark.parametrize("size", [0.01, 0.2])
def test_biases_that_have_moved(size: float) -> None:
    assert not is_bias_initial(size * torch.randn(32, generator=torch.Generator().manual_seed(0)), [0.25])


def test_constants_are_so_within_rounding() -> None:
    assert is_constant(torch.full((8,), 0.1) * (1 + 1e-7))
    assert is_constant(torch.zeros(8))
    assert not is_constant(torch.tensor([1.0, 1.001]))
