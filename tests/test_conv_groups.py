"""Grouped convolutions of real networks: every conv group loses as many channels as the others, its worst."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from structprune.channels import channel_groups
from structprune.nn.layers import is_depthwise
from structprune.pruning.budget import Budget, select
from structprune.pruning.surgery import shrink


@pytest.mark.parametrize("name", ["resnext50_32x4d", "regnet_y_400mf"])
def test_every_conv_group_loses_as_many_its_worst(name: str) -> None:
    model = torchvision.models.get_model(name).eval()
    groups = channel_groups(model, torch.randn(2, 3, 64, 64))
    generator = torch.Generator().manual_seed(5)
    scores = {group.name: torch.rand(group.size, generator=generator) for group in groups}
    plan = select(scores, groups, Budget(0.89))
    assert plan.reached == pytest.approx(0.89, abs=0.002)
    small = dict(shrink(model, groups, plan).named_modules())
    grouped = {
        layer: conv
        for layer, conv in model.named_modules()
        if isinstance(conv, nn.Conv2d) and conv.groups > 1 and not is_depthwise(conv)
    }
    assert len(grouped) >= 16
    written = {row.layer: (group, row) for group in groups for row in group.producers if row.layer in grouped}
    assert set(written) == set(grouped)
    for layer, conv in grouped.items():
        group, row = written[layer]
        assert row.channels == row.gates == tuple(range(conv.out_channels))
        keep = plan.keep[group.name].reshape(conv.groups, -1)
        score = scores[group.name].reshape(conv.groups, -1)
        assert set(keep.sum(1).tolist()) == {int(keep.sum()) // conv.groups}
        assert 0 < keep.sum() < group.size
        worst_kept = score.masked_fill(~keep, 2.0).amin(1)
        best_gone = score.masked_fill(keep, -1.0).amax(1)
        assert (best_gone < worst_kept).all()
        cut = small[layer]
        assert isinstance(cut, nn.Conv2d)
        assert (cut.groups, cut.out_channels) == (conv.groups, int(keep.sum()))
