"""Random changes to training images that keep their labels."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional


def random_shift(images_NCHW: Tensor, generator: Generator, fraction: float = 1 / 8) -> Tensor:
    """Shift each image by up to ``fraction`` of its sides, zeros moving in; (N,C,H,W) as before.

    The usual padding and random crop: 4 pixels at 32. Zero is the mean colour of a normalised image.
    """
    height, width = images_NCHW.shape[-2:]
    down, right = int(height * fraction), int(width * fraction)
    padded = functional.pad(images_NCHW, (right, right, down, down))
    tops = _whole_numbers(len(images_NCHW), 2 * down, generator)
    lefts = _whole_numbers(len(images_NCHW), 2 * right, generator)
    crops = [
        image[:, top : top + height, left : left + width]
        for image, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(crops)


def random_mirror(images_NCHW: Tensor, generator: Generator) -> Tensor:
    """Mirror each image from left to right with probability 1/2; (N,C,H,W) as before."""
    mirrored_N = torch.rand(len(images_NCHW), generator=generator) < 0.5
    return torch.where(mirrored_N.view(-1, 1, 1, 1), images_NCHW.flip(-1), images_NCHW)


def _whole_numbers(count: int, most: int, generator: Generator) -> list[int]:
    numbers: list[int] = torch.randint(0, most + 1, (count,), generator=generator).tolist()
    return numbers
