"""Columns times weights are what the layer itself computes, for every kind of layer."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn

from structprune.reconstruction.im2col import (
    as_columns,
    as_weight,
    at_places,
    bias_of,
    by_group,
    columns,
    draw_places,
    map_sizes,
)
from tests.correction.kinds import KINDS


def prepared(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    layer, x = KINDS[name].layer().double(), torch.randn(*KINDS[name].shape, dtype=torch.float64)
    with torch.no_grad():
        return layer, x, layer(x)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("most", [1000, 4])
@pytest.mark.parametrize("name", KINDS)
def test_columns_times_weights_are_the_outputs(name: str, most: int, generator: Generator) -> None:
    layer, x, y = prepared(name)
    sizes = map_sizes(layer, y)
    places = draw_places(len(x), sizes, most, generator)
    found = columns(layer, x, places, sizes) @ as_columns(layer)
    expected = at_places(layer, y, places)
    bias = bias_of(layer)
    expected = expected if bias is None else expected - bias
    torch.testing.assert_close(found, by_group(layer, expected))


@pytest.mark.parametrize("name", KINDS)
def test_weights_come_back_as_they_went(name: str) -> None:
    layer, _, _ = prepared(name)
    assert torch.equal(as_weight(layer, as_columns(layer)), layer.get_parameter("weight"))


def test_places_are_drawn_without_repeating_and_for_every_sample_anew(generator: Generator) -> None:
    places = draw_places(6, (5, 4), 7, generator)
    assert places.shape == (6, 7)
    assert all(len(set(row)) == 7 and max(row) < 20 for row in places.tolist())
    assert len({tuple(sorted(row)) for row in places.tolist()}) > 1
    assert draw_places(6, (2, 3), 7, generator).tolist() == 6 * [list(range(6))]


def test_what_is_read_at_places_is_what_lies_there() -> None:
    layer = nn.Conv2d(2, 3, 1)
    y = torch.arange(2.0 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    places = torch.tensor([[7, 0], [19, 3]])
    found = at_places(layer, y, places)
    assert found[0, 0].tolist() == y[0, :, 1, 2].tolist()
    assert found[1, 0].tolist() == y[1, :, 3, 4].tolist()
