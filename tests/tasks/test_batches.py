from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from structprune.data import Batches, ImageSet, to_batches
from structprune.data.batches import fit
from structprune.errors import InputError, UsageError

MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)


def image_set(count: int = 5, size: tuple[int, int, int] = (3, 8, 8), **changes: Any) -> ImageSet:
    channels, height, width = size
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    return ImageSet(pixels, np.arange(count) % 3, ("a", "b", "c"), "random", **changes)


def batches(images: ImageSet, size: tuple[int, int, int] = (3, 8, 8), batch_size: int = 2) -> Batches:
    return to_batches(images, size=size, mean=MEAN[: size[0]], std=STD[: size[0]], batch_size=batch_size)


def test_pixels_are_normalised_one_by_one() -> None:
    images = image_set()
    assert isinstance(images.images, np.ndarray)
    x = torch.cat([x for x, _ in batches(images)])
    assert x.dtype == torch.float32
    for n, c, h, w in np.ndindex(*x.shape):
        expected = (images.images[n, h, w, c] / 255 - MEAN[c]) / STD[c]
        assert x[n, c, h, w].item() == pytest.approx(expected, abs=1e-5)


def test_batches_come_in_order_and_again() -> None:
    made = batches(image_set(), batch_size=2)
    once, twice = list(made), list(made)
    assert [len(labels) for _, labels in once] == [2, 2, 1]
    assert len(made) == 3
    assert torch.cat([labels for _, labels in once]).tolist() == [0, 1, 2, 0, 1]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(once, twice, strict=True))


def test_another_batch_size_gives_the_same_images() -> None:
    made = batches(image_set())
    (whole,) = replace(made, batch_size=5)
    assert torch.equal(whole[0], torch.cat([x for x, _ in made]))


@pytest.mark.parametrize("shape", [(8, 16), (16, 8), (9, 8), (4, 7), (33, 100)])
def test_any_size_is_fitted(shape: tuple[int, int]) -> None:
    x, _ = next(iter(batches(image_set(size=(3, *shape)))))
    assert x.shape == (2, 3, 8, 8)


def test_a_wide_image_is_scaled_by_its_height_and_cropped_at_the_centre() -> None:
    blocks = torch.randint(0, 256, (1, 3, 4, 8), dtype=torch.uint8)
    enlarged = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = functional.interpolate(enlarged.float(), (4, 8), mode="bilinear", antialias=True)[..., 2:6]
    difference = fit(enlarged, (3, 4, 4)).float() - expected
    assert difference.abs().max() <= 1
    assert fit(blocks, (3, 4, 8)) is blocks


def test_grey_is_repeated_and_colour_greyed_where_the_data_allow_it() -> None:
    grey = image_set(size=(1, 8, 8), any_channels=True)
    x, _ = next(iter(to_batches(grey, size=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)))
    assert torch.equal(x[:, 0], x[:, 1])
    assert torch.equal(x[:, 0], x[:, 2])
    colour = np.zeros((1, 2, 2, 3), dtype=np.uint8) + np.array([10, 20, 200], dtype=np.uint8)
    images = ImageSet(colour, np.zeros(1, dtype=np.int64), ("a",), "colour", any_channels=True)
    y, _ = next(iter(to_batches(images, size=(1, 2, 2), mean=(0.0,), std=(1.0,))))
    assert set((y * 255).round().flatten().tolist()) == {round(0.299 * 10 + 0.587 * 20 + 0.114 * 200)}


@pytest.mark.parametrize(("have", "want"), [(1, 3), (3, 1), (4, 3)])
def test_other_channels_are_refused(have: int, want: int) -> None:
    with pytest.raises(InputError, match=f"have {have} channels?, but the network reads {want}"):
        batches(image_set(size=(have, 8, 8)), (want, 8, 8))


def test_even_adaptable_images_of_four_channels_are_refused() -> None:
    with pytest.raises(InputError, match="4 channels"):
        batches(image_set(size=(4, 8, 8), any_channels=True))
    with pytest.raises(InputError, match="4 channels"):
        batches(image_set(size=(4, 8, 8), any_channels=True), (1, 8, 8))


def test_senseless_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="mean has 1 value "):
        to_batches(image_set(), size=(3, 8, 8), mean=(0.5,), std=STD)
    with pytest.raises(UsageError, match="std above 0"):
        to_batches(image_set(), size=(3, 8, 8), mean=MEAN, std=(0.1, 0.0, 0.3))
    with pytest.raises(UsageError, match="batch size 0"):
        batches(image_set(), batch_size=0)
