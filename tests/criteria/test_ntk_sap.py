"""NTK-SAP against the double loop over draws and samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from structprune.channels import channel_groups
from structprune.choices import BatchNormMode
from structprune.pruning.gates import gate_channels, gate_weights
from structprune.scoring.criteria import ntk_sap
from structprune.scoring.sampling import Batch, Sampling
from tests.criteria.settings import KINDS, NAMES, Kind, by_hand, end_to_end, gated, network, sampling
from tests.criteria.test_oracles import assert_same
from tests.oracles import scores as oracle

Weights = Literal["keep", "redraw"]
Inputs = Literal["noise", "data"]


def draws(taken_on: Sampling, size: int) -> list[Tensor]:
    """The inputs of each draw: mini-batches, cut where they are larger than ``size``."""
    return [part for batch in taken_on.batches for part in torch.split(batch.inputs[0], size)]


@pytest.mark.parametrize("inputs", ["noise", "data"])
@pytest.mark.parametrize("weights", ["keep", "redraw"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_brute_force(name: str, kind: Kind, weights: Weights, inputs: Inputs) -> None:
    check(name, kind, weights, inputs, "fixed")


@pytest.mark.parametrize("weights", ["keep", "redraw"])
@pytest.mark.parametrize("name", ["TinyConvBN", "TinyResidualConcat"])
def test_scores_with_statistics_of_the_batch_are_those_of_brute_force(name: str, weights: Weights) -> None:
    check(name, "channels", weights, "noise", "batch")


def check(name: str, kind: Kind, weights: Weights, inputs: Inputs, batch_norm: BatchNormMode) -> None:
    model = network(name)
    over = gated(name, model, kind)
    taken_on = sampling(name, model, batch_norm=batch_norm, sizes=(4, 4, 2), draws=5)  # 2 samples a draw
    setting = by_hand(name, model, kind, taken_on)
    slow = oracle.ntk_sap(
        setting, draws(taken_on, 2), taken_on.seed, redraw=weights == "redraw", noise=inputs == "noise"
    )
    got = ntk_sap(over, taken_on, weights=weights, inputs=inputs)
    assert_same(end_to_end(got, over, setting), slow, 1e-9)


@pytest.mark.parametrize("weights", ["keep", "redraw"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_in_float32_are_close(name: str, weights: Weights) -> None:
    single, double = network(name, torch.float32), network(name)
    over = gated(name, single, "channels")
    taken_on = sampling(name, double, sizes=(4, 4, 2), draws=5)
    setting = by_hand(name, double, "channels", taken_on)
    slow = oracle.ntk_sap(
        setting,
        draws(taken_on, 2),
        taken_on.seed,
        redraw=weights == "redraw",
        noise=True,
        drawn_in=torch.float32,
    )
    got = ntk_sap(over, sampling(name, single, sizes=(4, 4, 2), draws=5), weights=weights, inputs="noise")
    flat = end_to_end(got, over, setting)
    assert float((flat.double() - slow).abs().max()) < 1e-3 * float(slow.max())


@pytest.mark.parametrize(("trained", "same_as"), [(False, ("redraw", "noise")), (True, ("keep", "data"))])
def test_the_defaults_depend_on_whether_the_network_is_trained(
    trained: bool, same_as: tuple[Weights, Inputs]
) -> None:
    model = network("TinyConvBN")
    over = gated("TinyConvBN", model, "channels")
    taken_on = sampling("TinyConvBN", model, trained=trained)
    default, named = ntk_sap(over, taken_on), ntk_sap(over, taken_on, weights=same_as[0], inputs=same_as[1])
    assert all(torch.equal(default.values[key], named.values[key]) for key in over.shapes)


def test_a_trained_network_without_data_keeps_its_weights_and_gets_noise() -> None:
    model = network("TinyMLP")
    over = gated("TinyMLP", model, "channels")
    taken_on = replace(sampling("TinyMLP", model, trained=True), real=False)
    default, named = ntk_sap(over, taken_on), ntk_sap(over, taken_on, weights="keep", inputs="noise")
    assert all(torch.equal(default.values[key], named.values[key]) for key in over.shapes)


@pytest.mark.parametrize(("sizes", "draws"), [((3,), 2), ((3,), 3), ((5,), 2), ((4, 3), 2)])
def test_a_draw_is_never_of_one_sample_alone(sizes: tuple[int, ...], draws: int) -> None:
    # One sample has no variance where the maps that are normalised are 1x1.
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    over = gate_channels(model, channel_groups(model, torch.zeros(2, 3, 8, 8)), {})
    taken_on = sampling("TinyConvBN", network("TinyConvBN", torch.float32), sizes=sizes, draws=draws)
    scores = ntk_sap(over, replace(taken_on, statistics=None), weights="redraw", inputs="noise")
    assert float(scores.values["0"].max()) > 0


def test_integer_inputs_are_kept_where_noise_is_asked_for() -> None:
    embedding = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    tokens = Batch((torch.arange(6).reshape(3, 2),), torch.zeros(3, 2, dtype=torch.long))
    taken_on = replace(sampling("TinyMLP", network("TinyMLP")), batches=(tokens,), statistics=None)
    got = ntk_sap(gate_weights(embedding), taken_on)
    assert all(float(value.max()) > 0 for value in got.values.values())
