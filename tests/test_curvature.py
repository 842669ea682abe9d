from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from structprune.nn.precision import exact_arithmetic
from structprune.pruning.gates import Gates
from structprune.scoring.curvature import gradient, hessian_gradient
from structprune.scoring.sampling import Term
from tests.oracles.scores import derivative, second_derivative
from tests.oracles.state import changed, world


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gates() -> dict[str, Tensor]:
    return {"a": vector(1, 1).requires_grad_(), "b": vector(1, 1, 1).requires_grad_()}


def quadratic(matrix: Tensor, slope: Tensor) -> Term:
    """c -> c'Mc/2 + s'c, whose gradient is Mc + s and whose Hessian is M."""

    def term(c: Gates) -> Tensor:
        flat = torch.cat([c["a"], c["b"]])
        return flat @ matrix @ flat / 2 + slope @ flat

    return term


def symmetric(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    return half + half.T


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_gradient_is_that_of_the_sum(count: int) -> None:
    matrices, slopes = [symmetric(i) for i in range(count)], [vector(i, 1, 2, 3, 4) for i in range(count)]
    got = gradient([quadratic(m, s) for m, s in zip(matrices, slopes, strict=True)], gates())
    expected = torch.stack(matrices).sum(0) @ torch.ones(5).double() + torch.stack(slopes).sum(0)
    torch.testing.assert_close(torch.cat([got["a"], got["b"]]), expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_product_is_that_of_the_whole_hessian_and_the_whole_gradient(count: int) -> None:
    matrices, slopes = [symmetric(i) for i in range(count)], [vector(i, 1, 2, 3, 4) for i in range(count)]
    got = hessian_gradient([quadratic(m, s) for m, s in zip(matrices, slopes, strict=True)], gates())
    H = torch.stack(matrices).sum(0)
    g = H @ torch.ones(5).double() + torch.stack(slopes).sum(0)
    torch.testing.assert_close(torch.cat([got["a"], got["b"]]), H @ g)


@pytest.mark.parametrize("count", [1, 3])
def test_the_gradient_is_projected_before_the_product_and_not_behind_it(count: int) -> None:
    matrices, slopes = [symmetric(i) for i in range(count)], [vector(i, 1, 2, 3, 4) for i in range(count)]
    there = {"a": vector(1, 0), "b": vector(0, 1, 1)}
    terms = [quadratic(m, s) for m, s in zip(matrices, slopes, strict=True)]
    got = hessian_gradient(terms, gates(), within=there)
    H = torch.stack(matrices).sum(0)
    g = H @ torch.ones(5).double() + torch.stack(slopes).sum(0)
    torch.testing.assert_close(torch.cat([got["a"], got["b"]]), H @ (vector(1, 0, 0, 1, 1) * g))


@pytest.mark.parametrize("split", [1, 2, 5])
def test_along_other_variables_the_product_is_that_of_the_mixed_block(split: int) -> None:
    # L = sum over k of (c . x_k)^3 / split, c the gates and x the variables, cut into equal terms.
    x = vector(0.5, -1.0, 2.0).requires_grad_()
    c = {"c": vector(1, 1, 1).requires_grad_()}

    def term(open_gates: Gates) -> Tensor:
        return (open_gates["c"] * x).sum() ** 3 / split

    got = hessian_gradient([term] * split, c, along={"x": x})["c"]

    def joint(both: Tensor) -> Tensor:
        return (both[:3] * both[3:]).sum() ** 3

    point = torch.cat([c["c"], x]).detach()
    H = second_derivative(joint, point)
    g = derivative(joint, point)
    torch.testing.assert_close(got, H[:3, 3:] @ g[3:])


def test_a_gate_that_nothing_depends_on_has_zeros() -> None:
    terms: list[Callable[[Gates], Tensor]] = [lambda c: c["a"].prod() ** 2, lambda c: c["a"].sum() ** 3]
    for found in (gradient(terms, gates()), hessian_gradient(terms, gates())):
        assert found["b"].tolist() == [0, 0, 0]
        assert bool((found["a"] != 0).all())


def test_a_loss_that_depends_on_no_gate_has_zeros() -> None:
    def constant(_: Gates) -> Tensor:
        return torch.tensor(3.0)

    assert gradient([constant, constant], gates())["b"].tolist() == [0, 0, 0]
    assert hessian_gradient([constant], gates())["a"].tolist() == [0, 0]


def test_a_linear_loss_has_no_curvature() -> None:
    found = hessian_gradient([lambda c: c["a"].sum() + 2 * c["b"].sum()], gates())
    assert found["a"].tolist() == [0, 0]


def test_gates_get_no_gradient_of_their_own() -> None:
    mine = gates()
    hessian_gradient([lambda c: (c["a"].sum() * c["b"].sum()) ** 2] * 2, mine)
    assert all(gate.grad is None for gate in mine.values())


@pytest.fixture
def tf32() -> Iterator[None]:
    """What rounds is on, as a user may have set it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("tf32")
def test_exact_arithmetic_switches_off_what_rounds_and_puts_it_back() -> None:
    before = world()
    with exact_arithmetic():
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.mha.get_fastpath_enabled()
    assert changed(before, world()) == []
    with pytest.raises(KeyError), exact_arithmetic():
        raise KeyError
    assert changed(before, world()) == []


def test_attention_has_second_derivatives_under_exact_arithmetic() -> None:
    q = torch.randn(1, 2, 4, 8, dtype=torch.float64)

    def term(c: Gates) -> Tensor:
        scaled = q * c["head"].reshape(1, 2, 1, 1)
        return torch.nn.functional.scaled_dot_product_attention(scaled, scaled, q).square().sum()

    head = {"head": torch.ones(2, dtype=torch.float64, requires_grad=True)}
    with exact_arithmetic():
        got = hessian_gradient([term], head)["head"]
        H = second_derivative(lambda c: term({"head": c}), head["head"].detach())
        g = derivative(lambda c: term({"head": c}), head["head"].detach())
    torch.testing.assert_close(got, H @ g)
