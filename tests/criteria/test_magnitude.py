from __future__ import annotations

import torch
from torch import nn

from structprune.channels import channel_groups
from structprune.pruning.gates import gate_channels
from structprune.scoring.criteria import magnitude
from tests.criteria.settings import gated, network, sampling


def test_a_channel_scores_the_mean_absolute_weight_of_its_filter() -> None:
    model = network("TinyConvBN")
    scores = magnitude(gated("TinyConvBN", model, "channels"), sampling("TinyConvBN", model))
    weight = model.get_parameter("conv1.weight")
    expected = [sum(abs(w) for w in filter_.flatten().tolist()) / 27 for filter_ in weight]
    torch.testing.assert_close(scores.values["conv1"], torch.tensor(expected, dtype=torch.float64))


def test_a_channel_of_several_layers_scores_the_mean_over_its_filters() -> None:
    model = network("TinyResidualConcat")
    over = gated("TinyResidualConcat", model, "channels")
    scores = magnitude(over, sampling("TinyResidualConcat", model))
    (name,) = (key for key, rows in over.producers.items() if "stem" in {layer for layer, _, _ in rows})
    stem, residual = (model.get_parameter(f"{layer}.weight") for layer in ("stem", "residual"))
    for channel in range(4):
        mean = (stem[channel].abs().mean() + residual[channel].abs().mean()) / 2
        torch.testing.assert_close(scores.values[name][channel], mean.detach())


def test_the_filters_of_a_transposed_convolution_lie_along_its_second_dimension() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    over = gate_channels(model, channel_groups(model, torch.zeros(1, 3, 4, 4)), {})
    scores = magnitude(over, sampling("TinyMLP", network("TinyMLP")))
    weight = model.get_parameter("0.weight").detach()
    torch.testing.assert_close(scores.values["0"], weight.abs().mean((0, 2, 3)))


def test_a_grouped_transposed_convolution_has_its_filters_group_by_group() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 1))
    over = gate_channels(model, channel_groups(model, torch.zeros(1, 4, 4, 4)), {})
    scores = magnitude(over, sampling("TinyMLP", network("TinyMLP")))
    w = model.get_parameter("0.weight").detach()  # (4, 3, 2, 2): inputs 0-1 write outputs 0-2, 2-3 write 3-5
    expected = [w[2 * (o // 3) : 2 * (o // 3) + 2, o % 3].abs().mean() for o in range(6)]
    torch.testing.assert_close(scores.values["0"], torch.stack(expected))


def test_a_weight_scores_its_absolute_value() -> None:
    model = network("TinyMLP")
    scores = magnitude(gated("TinyMLP", model, "weights"), sampling("TinyMLP", model))
    assert set(scores.values) == {"fc1.weight", "fc2.weight", "head.weight"}
    for name, value in scores.values.items():
        assert torch.equal(value, model.get_parameter(name).abs())
