"""Labelled images as they are read: uint8 pixels, int64 labels, the names of the classes.

Letters of shapes: N images, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from structprune.errors import InputError
from structprune.files import check_regular

Indices: TypeAlias = NDArray[np.int64]
Labels: TypeAlias = NDArray[np.int64]
Pixels: TypeAlias = NDArray[np.uint8]

PEEKED = 16
"""Picture files looked at to find out whether a folder's pictures have one size."""


@dataclass(frozen=True)
class ImageFiles:
    """Picture files, decoded to RGB when they are asked for and not before.

    Attributes:
        paths: one file a picture.
    """

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Indices) -> ImageFiles:
        return ImageFiles(tuple(self.paths[index] for index in indices))

    def __iter__(self) -> Iterator[Pixels]:
        return map(read_picture, self.paths)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their labels.

    Attributes:
        images: (N,H,W,C) uint8, or files that decode to (H,W,3) uint8, each of its own size.
        labels: (N,) int64, 0 <= label < len(classes).
        classes: name of each class.
        name: what the set is called in a report; no folders.
        any_channels: whether grey may be repeated to colour, or colour made grey, as the network asks.
        mirrors: whether an image seen in a mirror keeps its label: not so for digits.
        notes: what a reader of the report should know of how they were read.
    """

    images: Pixels | ImageFiles
    labels: Labels
    classes: tuple[str, ...]
    name: str
    any_channels: bool = False
    mirrors: bool = True
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Channels of every image, before anything adapts them."""
        return 3 if isinstance(self.images, ImageFiles) else int(self.images.shape[-1])

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(C,H,W) of every image, or None where they differ; files are judged by a few of them."""
        if isinstance(self.images, ImageFiles):
            few = np.unique(np.linspace(0, len(self) - 1, PEEKED).astype(np.int64))
            shapes = {picture.shape for picture in self.images[few]}
        else:
            shapes = {self.images.shape[1:]}
        height, width, channels = shapes.pop()
        return None if shapes else (channels, height, width)

    def take(self, indices: Indices) -> ImageSet:
        """Return the images at ``indices``, in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def stacks(self) -> Iterable[Pixels]:
        """Return the images as (n,H,W,C) stacks of one size: a single one where they share it."""
        if isinstance(self.images, ImageFiles):
            return (picture[None] for picture in self.images)
        return (self.images,)


def read_picture(path: Path) -> Pixels:
    """Decode a picture file to (H,W,3) uint8.

    Raises:
        InputError: the file can't be read as a picture.
    """
    from PIL import Image

    check_regular(path, f"{path.parent.name}/{path.name}")
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path.parent.name}/{path.name} can't be read as a picture: {error}") from error
