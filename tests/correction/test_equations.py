"""Least squares with a ridge against torch's own solver on rows that stand for the ridge."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from structprune.reconstruction.normal_equations import Equations


def rows(n: int, p: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Columns of different sizes, off centre, for two systems of p unknowns and three right-hand sides."""
    x = torch.randn(2, n, p, generator=generator) * torch.arange(1, p + 1) + 3
    return x, torch.randn(2, n, 3, generator=generator) + 5


def obvious(x: Tensor, y: Tensor, ridge: float, offset: bool) -> tuple[Tensor, Tensor]:
    """Centred where there is an offset, with a row more for every column that pulls it to zero."""
    x, y = x.double(), y.double()
    means = [z.mean(0, keepdim=True) * offset for z in (x, y)]
    centred, wanted = x - means[0], y - means[1]
    pull = (ridge * (centred**2).sum(0).mean()).sqrt() * torch.eye(x.shape[1], dtype=torch.float64)
    tall = torch.cat([centred, pull]), torch.cat([wanted, torch.zeros(x.shape[1], 3, dtype=torch.float64)])
    d = torch.linalg.lstsq(*tall).solution
    return d, means[1] - means[0] @ d


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize(("n", "p"), [(40, 5), (6, 9)])
@pytest.mark.parametrize("ridge", [1e-2, 1e-4])
def test_the_solution_is_that_of_the_rows(
    n: int, p: int, by_rows: bool, offset: bool, ridge: float, generator: Generator
) -> None:
    x, y = rows(n, p, generator)
    equations = Equations(offset, by_rows)
    equations.add(x, y)
    d, c = equations.solve(ridge)
    for g in range(2):
        expected_d, expected_c = obvious(x[g], y[g], ridge, offset)
        torch.testing.assert_close(d[g], expected_d, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(c[g], expected_c, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("by_rows", [True, False])
def test_chunks_give_what_all_rows_at_once_give(by_rows: bool, generator: Generator) -> None:
    x, y = rows(37, 5, generator)
    whole, parts = Equations(True, by_rows), Equations(True, by_rows)
    whole.add(x, y)
    for start in range(0, 37, 8):
        parts.add(x[:, start : start + 8], y[:, start : start + 8])
    assert parts.rows == 37
    assert parts.squares == pytest.approx(whole.squares)
    for one, other in zip(parts.solve(), whole.solve(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_columns_of_zeros_are_given_nothing() -> None:
    equations = Equations(offset=True)
    equations.add(torch.zeros(1, 6, 4), torch.arange(6.0).reshape(1, 6, 1))
    d, c = equations.solve()
    assert not d.any()
    assert c.item() == pytest.approx(2.5)


def test_what_is_held_does_not_grow_with_the_rows(generator: Generator) -> None:
    equations = Equations(offset=True)
    held = []
    for _ in range(3):
        equations.add(*rows(500, 5, generator))
        held.append(sum(x.nbytes for x in equations._products.values()))
    assert held[0] == held[-1] < 500 * 5 * 8
