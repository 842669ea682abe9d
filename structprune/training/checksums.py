"""Checksums of tensors and of images, to the byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structprune.data import ImageSet
from structprune.data.images import ImageFiles
from structprune.errors import InputError

DIGITS = 16
"""Of a SHA-256 in hexadecimal, enough to tell things apart and short enough to be read."""

AT_ONCE = 1024
"""Images that are copied at once where they don't lie in one piece."""


def digest_of(pieces: Iterable[bytes | memoryview]) -> str:
    """First digits of the SHA-256 of pieces of bytes, one behind the other."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()[:DIGITS]


def tensors_digest(tensors: Iterable[Tensor]) -> str:
    """Checksum of types, shapes and values."""
    return digest_of(piece for x in tensors for piece in _tensor_pieces(x))


def _tensor_pieces(x: Tensor) -> Iterable[bytes | memoryview]:
    yield f"{x.dtype} {tuple(x.shape)}".encode()
    yield x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def images_digest(images: ImageSet) -> str:
    """Checksum of all images: of their pixels, or of the files that they are decoded from.

    Raises:
        InputError: a file can't be read.
    """
    if isinstance(images.images, ImageFiles):
        return digest_of(piece for path in images.images.paths for piece in _file_pieces(path))
    return digest_of(_pixel_pieces(images.images))


def _pixel_pieces(pixels_NHWC: Any) -> Iterable[bytes | memoryview]:
    yield f"{pixels_NHWC.dtype} {pixels_NHWC.shape}".encode()
    for start in range(0, len(pixels_NHWC), AT_ONCE):
        yield np.ascontiguousarray(pixels_NHWC[start : start + AT_ONCE]).data


def _file_pieces(path: Any) -> Iterable[bytes]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path.parent.name}/{path.name} can't be read: {error.strerror}") from error
    yield str(len(content)).encode()
    yield content
