from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from structprune.training.augment import random_mirror, random_shift


def test_a_shift_is_a_crop_of_the_padded_image_and_every_crop_occurs(generator: torch.Generator) -> None:
    image = torch.randn(2, 8, 16)
    padded = functional.pad(image, (2, 2, 1, 1))
    crops = [padded[:, top : top + 8, left : left + 16] for top in range(3) for left in range(5)]
    shifted = random_shift(image.expand(400, -1, -1, -1), generator)
    found = [[torch.equal(one, crop) for crop in crops].index(True) for one in shifted]
    assert set(found) == set(range(len(crops)))


def test_about_half_are_mirrored_and_the_others_untouched(generator: torch.Generator) -> None:
    images = torch.randn(400, 2, 3, 4)
    seen = random_mirror(images, generator)
    mirrored = torch.tensor([is_mirrored(old, new) for old, new in zip(images, seen, strict=True)])
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(seen[~mirrored], images[~mirrored])


def is_mirrored(old: Tensor, new: Tensor) -> bool:
    return all(torch.equal(old[..., w], new[..., -1 - w]) for w in range(old.shape[-1]))


def test_the_seed_decides() -> None:
    images = torch.randn(8, 1, 16, 16)
    same = [random_shift(images, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], random_shift(images, torch.Generator().manual_seed(6)))
