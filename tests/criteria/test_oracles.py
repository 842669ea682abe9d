"""Every criterion of derivatives against brute force, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from structprune import criteria
from structprune.batch_norm import BatchNormMode
from structprune.criteria import Criterion
from structprune.scores import Accumulate
from tests.criteria.settings import (
    KINDS,
    NAMES,
    Kind,
    by_hand,
    end_to_end,
    gated,
    network,
    sampling,
)
from tests.oracles import scores as oracle
from tests.oracles.scores import Setting

Slow = Callable[[Setting, str], Tensor]
PAIRS: dict[str, tuple[Criterion, Slow]] = {
    "snip": (criteria.snip, oracle.snip),
    "crop": (criteria.crop, oracle.crop),
    "crop_gradflow": (criteria.crop_gradflow, oracle.crop_gradflow),
}
MODES: tuple[BatchNormMode, ...] = ("fixed", "batch")
SUMS: tuple[Accumulate, ...] = ("total", "abs", "square")


def assert_same(got: Tensor, expected: Tensor, relative: float) -> None:
    """Hold every score, and those that cancel to almost nothing against the largest."""
    assert expected.max() > 0
    torch.testing.assert_close(got, expected, rtol=relative, atol=relative * 1e-2 * float(expected.max()))


@pytest.mark.parametrize("accumulate", SUMS)
@pytest.mark.parametrize("batch_norm", MODES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("criterion", PAIRS)
def test_channel_scores_are_those_of_brute_force(
    criterion: str, name: str, batch_norm: BatchNormMode, accumulate: Accumulate
) -> None:
    check(criterion, name, "channels", batch_norm, accumulate)


@pytest.mark.parametrize("batch_norm", MODES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("criterion", PAIRS)
def test_weight_scores_are_those_of_brute_force(criterion: str, name: str, batch_norm: BatchNormMode) -> None:
    check(criterion, name, "weights", batch_norm, "total")


def check(criterion: str, name: str, kind: Kind, batch_norm: BatchNormMode, accumulate: Accumulate) -> None:
    got = score(criterion, name, kind, batch_norm, accumulate, torch.float64)
    assert_same(got, brute_force(criterion, name, kind, batch_norm, accumulate), 1e-9)


def score(
    criterion: str,
    name: str,
    kind: Kind,
    batch_norm: BatchNormMode,
    accumulate: Accumulate,
    dtype: torch.dtype,
) -> Tensor:
    model = network(name, dtype)
    over = gated(name, model, kind)
    taken_on = sampling(name, model, batch_norm=batch_norm, accumulate=accumulate)
    scores = end_to_end(PAIRS[criterion][0](over, taken_on), over, by_hand(name, model, kind, taken_on))
    assert scores.dtype == dtype
    return scores


@cache
def brute_force(
    criterion: str, name: str, kind: Kind, batch_norm: BatchNormMode, accumulate: Accumulate
) -> Tensor:
    model = network(name)
    setting = by_hand(name, model, kind, sampling(name, model, batch_norm=batch_norm))
    return PAIRS[criterion][1](setting, accumulate)


@pytest.mark.parametrize("criterion", PAIRS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_in_float32_are_close(criterion: str, name: str, kind: Kind) -> None:
    got = score(criterion, name, kind, "fixed", "total", torch.float32).double()
    expected = brute_force(criterion, name, kind, "fixed", "total")
    assert float((got - expected).abs().max()) < 1e-3 * float(expected.max())


@pytest.mark.parametrize("batch_norm", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_snip_is_what_closing_a_gate_a_little_does(name: str, batch_norm: BatchNormMode) -> None:
    model = network(name)
    setting = by_hand(name, model, "channels", sampling(name, model, batch_norm=batch_norm))
    got = score("snip", name, "channels", batch_norm, "total", torch.float64)
    assert_same(got, oracle.snip_by_difference(setting), 1e-6)


@pytest.mark.parametrize("batch_norm", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_crop_is_what_closing_a_gate_a_little_does_to_the_gradient(
    name: str, batch_norm: BatchNormMode
) -> None:
    model = network(name)
    setting = by_hand(name, model, "channels", sampling(name, model, batch_norm=batch_norm))
    got = score("crop", name, "channels", batch_norm, "total", torch.float64)
    assert_same(got, oracle.crop_by_difference(setting), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_two_forms_of_crop_rank_differently(name: str) -> None:
    gates_only, flow = (
        brute_force(form, name, "channels", "fixed", "total") for form in ("crop", "crop_gradflow")
    )
    assert gates_only.argsort().tolist() != flow.argsort().tolist()
