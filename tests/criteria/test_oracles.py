"""Every criterion of derivatives against brute force, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from structprune.choices import Accumulate, BatchNormMode
from structprune.scoring import criteria
from structprune.scoring.criteria import Criterion
from structprune.scoring.criteria.grasp import TEMPERATURE
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
    "force": (criteria.force, oracle.force),
    "gate_taylor": (criteria.gate_taylor, oracle.gate_taylor),
    "crop": (criteria.crop, oracle.crop),
    "crop_gradflow": (criteria.crop_gradflow, oracle.crop_gradflow),
    "grasp": (criteria.grasp, oracle.grasp),
}
ON_WEIGHTS: tuple[Kind, ...] = ("weights", "masked weights")
MODES: tuple[BatchNormMode, ...] = ("fixed", "batch")
SUMS: tuple[Accumulate, ...] = ("total", "abs", "square")


def assert_same(got: Tensor, expected: Tensor, relative: float) -> None:
    """Hold every score, and those that cancel to almost nothing against the largest."""
    largest = float(expected.abs().max())
    assert largest > 0
    torch.testing.assert_close(got, expected, rtol=relative, atol=relative * 1e-2 * largest)


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
@pytest.mark.parametrize("kind", ON_WEIGHTS)
@pytest.mark.parametrize("criterion", PAIRS)
def test_weight_scores_are_those_of_brute_force(
    criterion: str, kind: Kind, name: str, batch_norm: BatchNormMode
) -> None:
    check(criterion, name, kind, batch_norm, "total")


@pytest.mark.parametrize("accumulate", ["abs", "square"])
@pytest.mark.parametrize("criterion", sorted(set(PAIRS) - {"crop_gradflow"}))
def test_masked_weights_are_scored_by_mini_batches_too(criterion: str, accumulate: Accumulate) -> None:
    check(criterion, "TinyMLP", "masked weights", "fixed", accumulate)


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
    assert float((got - expected).abs().max()) < 1e-3 * float(expected.abs().max())


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


@pytest.mark.parametrize(("criterion", "relative"), [("snip", 1e-6), ("crop", 1e-5), ("grasp", 1e-5)])
@pytest.mark.parametrize("kind", ON_WEIGHTS)
def test_weight_scores_are_what_closing_a_gate_a_little_does(
    kind: Kind, criterion: str, relative: float
) -> None:
    slow = {
        "snip": oracle.snip_by_difference,
        "crop": oracle.crop_by_difference,
        "grasp": oracle.grasp_by_difference,
    }
    model = network("TinyMLP")
    setting = by_hand("TinyMLP", model, kind, sampling("TinyMLP", model))
    got = score(criterion, "TinyMLP", kind, "fixed", "total", torch.float64)
    assert_same(got, slow[criterion](setting), relative)


@pytest.mark.parametrize("name", ["TinyMLP", "TinyConvBN"])
def test_what_is_masked_scores_nothing_unless_it_may_come_back(name: str) -> None:
    model = network(name)
    gone = by_hand(name, model, "masked weights", sampling(name, model)).c == 0
    found = {c: score(c, name, "masked weights", "fixed", "total", torch.float64) for c in PAIRS}
    for criterion in ("snip", "gate_taylor", "crop", "grasp"):
        assert bool((found[criterion][gone] == 0).all())
        assert bool((found[criterion][~gone] != 0).any())
    assert bool((found["force"][gone] > 0).any())
    assert torch.equal(found["force"][~gone], found["snip"][~gone])


@pytest.mark.parametrize("name", ["TinyMLP", "TinyConvBN"])
def test_the_hessian_of_weights_is_not_that_of_their_gates(name: str) -> None:
    # c * (H_cc g_c) has the weights squared in it, and the curvature of a product besides.
    model = network(name)
    over = gated(name, model, "weights")
    taken_on = sampling(name, model)
    as_gates = criteria.crop(replace(over, flow="gates"), taken_on).values
    as_weights = criteria.crop(over, taken_on).values
    assert all(not torch.allclose(as_gates[key], as_weights[key], rtol=0.1) for key in as_gates)


@pytest.mark.parametrize("name", ["TinyMLP", "TinyConvBN"])
def test_grasp_is_crop_with_a_sign_where_the_temperature_is_the_same(name: str) -> None:
    model = network(name)
    over = gated(name, model, "weights")
    taken_on = sampling(name, model)
    signed = criteria.grasp(over, taken_on).values
    crop = criteria.crop(over, replace(taken_on, temperature=TEMPERATURE)).values
    assert all(torch.equal(signed[key].abs(), crop[key]) for key in crop)
    assert min(float(value.min()) for value in signed.values()) < 0


@pytest.mark.parametrize("name", NAMES)
def test_the_two_forms_of_crop_rank_differently(name: str) -> None:
    gates_only, flow = (
        brute_force(form, name, "channels", "fixed", "total") for form in ("crop", "crop_gradflow")
    )
    assert gates_only.argsort().tolist() != flow.argsort().tolist()
