"""From uint8 images of any size to the normalised float32 batches that a network reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from structprune.data.images import ImageSet, Indices, Pixels
from structprune.errors import InputError, UsageError

Batch: TypeAlias = tuple[Tensor, Tensor]

# ITU-R BT.601 luma, which is what PIL's "L" is.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Preprocessing:
    """What happens to every image, whether it scores, trains or tests.

    Attributes:
        size: (C,H,W) that the network reads.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: ImageSet) -> Tensor:
        """Return the images as (N,C,H,W) float32: fitted to the size, then (pixel / 255 - mean) / std."""
        fitted = [fit(_channels_first(stack), self.size) for stack in images.stacks()]
        pixels_NCHW = torch.cat(fitted).float() / 255
        return (pixels_NCHW - _per_channel(self.mean)) / _per_channel(self.std)


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches in a fixed order, as often as they are asked for.

    Attributes:
        images: what they are made from.
        preprocessing: how.
        batch_size: images in every batch but perhaps the last.
    """

    images: ImageSet
    preprocessing: Preprocessing
    batch_size: int

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        everything = np.arange(len(self.images))
        for start in range(0, len(self.images), self.batch_size):
            yield self.batch(everything[start : start + self.batch_size])

    def batch(self, indices: Indices) -> Batch:
        """Return images (n,C,H,W) float32 and labels (n,) int64 at ``indices``."""
        chosen = self.images.take(indices)
        return self.preprocessing(chosen), torch.from_numpy(chosen.labels)


def to_batches(
    images: ImageSet,
    *,
    size: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = 128,
) -> Batches:
    """Prepare images for a network: resized and cropped where their size differs, then normalised.

    Args:
        images: what to read.
        size: (C,H,W) that the network reads.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        batch_size: images a batch; the last one holds what is left.

    Returns:
        An iterable of (images (n,C,H,W) float32, labels (n,) int64) on the CPU, in order, never augmented.

    Raises:
        InputError: the images have another number of channels than the network reads.
        UsageError: mean or std don't fit the channels, or the batch size is below 1.
    """
    _check_channels(images, size[0])
    _check_normalisation(size[0], mean, std)
    return Batches(images, Preprocessing(size, tuple(mean), tuple(std)), _checked_batch_size(batch_size))


def fit(images_NCHW: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Give uint8 images the channels, height and width of ``size``.

    They are scaled, with antialiasing, until the tighter side fits; the longer one is cropped at the centre.

    Args:
        images_NCHW: (N,C,H,W) uint8.
        size: (C,H,W) wanted.

    Returns:
        (N,*size) uint8.
    """
    from torchvision.transforms.v2 import functional as transforms

    channels, height, width = size
    adapted = _adapt_channels(images_NCHW, channels)
    if adapted.shape[-2:] == (height, width):
        return adapted
    scale = max(height / adapted.shape[-2], width / adapted.shape[-1])
    covering = [
        max(side, round(scale * old)) for side, old in zip((height, width), adapted.shape[-2:], strict=True)
    ]
    cropped: Tensor = transforms.center_crop(
        transforms.resize(adapted, covering, antialias=True), [height, width]
    )
    return cropped


def _channels_first(stack_NHWC: Pixels) -> Tensor:
    # A copy: memory-mapped and decoded pictures are read-only, which torch warns about.
    return torch.from_numpy(stack_NHWC.transpose(0, 3, 1, 2).copy())


def _adapt_channels(images_NCHW: Tensor, channels: int) -> Tensor:
    have = images_NCHW.shape[1]
    if have == channels:
        return images_NCHW
    if have == 1:
        return images_NCHW.expand(-1, channels, -1, -1)
    grey = (images_NCHW * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return grey.round().to(torch.uint8)


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def _check_channels(images: ImageSet, channels: int) -> None:
    # Grey to anything, colour to grey: what _adapt_channels does.
    adaptable = images.any_channels and (images.channels == 1 or (images.channels, channels) == (3, 1))
    if images.channels != channels and not adaptable:
        raise InputError(
            f"the images of {images.name} have {_counted(images.channels, 'channel')}, but the network reads "
            f"{channels}; give images of shape (N, H, W, {channels})"
        )


def _check_normalisation(channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UsageError(
                f"{name} has {_counted(len(values), 'value')} and the network {channels} input channels"
            )
    if not all(math.isfinite(value) for value in mean) or not all(0 < value < math.inf for value in std):
        raise UsageError(f"mean {mean} and std {std}; expected finite numbers, and std above 0")


def _checked_batch_size(batch_size: int) -> int:
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}; expected 1 or more")
    return batch_size


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
