from __future__ import annotations

import pytest
import torch
from torch import nn

from structprune.channels import channel_groups
from structprune.errors import UsageError
from structprune.pruning.gates import gate_channels
from structprune.scoring.criteria import bn_scale
from tests.criteria.settings import gated, network, sampling


def test_a_channel_scores_the_absolute_scale_of_its_batch_norm() -> None:
    model = network("TinyConvBN")
    model.get_parameter("bn1.weight").data[2] *= -1
    over = gated("TinyConvBN", model, "channels")
    assert over.norms == {
        "conv1": (("bn1", *[tuple(range(4))] * 2),),
        "conv2": (("bn2", *[tuple(range(6))] * 2),),
    }
    scores = bn_scale(over, sampling("TinyConvBN", model))
    assert torch.equal(scores.values["conv1"], model.get_parameter("bn1.weight").abs())
    assert torch.equal(scores.values["conv2"], model.get_parameter("bn2.weight").abs())


def test_a_channel_of_several_batch_norms_scores_their_mean_and_one_of_none_the_largest() -> None:
    model = network("TinyResidualConcat")
    over = gated("TinyResidualConcat", model, "channels")
    scores = bn_scale(over, sampling("TinyResidualConcat", model)).values
    (stream,) = (key for key, rows in over.norms.items() if rows)
    bn0, bn1 = (model.get_parameter(f"{name}.weight").detach().abs() for name in ("bn0", "bn1"))
    torch.testing.assert_close(scores[stream], (bn0 + bn1) / 2, rtol=1e-15, atol=0)
    for other in over.shapes.keys() - {stream}:
        assert bool((scores[other] == scores[stream].max()).all())


def test_a_batch_norm_behind_a_flatten_has_several_scales_for_a_channel() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Flatten(), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5), nn.Linear(5, 2)
    )
    scales = torch.rand(16)
    model.get_parameter("2.weight").data.copy_(scales)
    over = gate_channels(model, channel_groups(model, torch.zeros(2, 3, 4, 4)), {})
    scores = bn_scale(over, sampling("TinyMLP", network("TinyMLP")))
    torch.testing.assert_close(scores.values["0"], scales.reshape(4, 4).mean(1))


@pytest.mark.parametrize("affine", [True, False])
def test_a_network_without_scales_is_refused(affine: bool) -> None:
    norm = nn.Identity() if affine else nn.BatchNorm1d(6, affine=False)
    model = nn.Sequential(nn.Linear(5, 6), norm, nn.ReLU(), nn.Linear(6, 2))
    over = gate_channels(model, channel_groups(model, torch.zeros(2, 5)), {})
    with pytest.raises(UsageError, match="needs batch norms with scales"):
        bn_scale(over, sampling("TinyMLP", network("TinyMLP")))
