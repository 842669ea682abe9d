"""Images and labels from an ``.npz`` file, never through pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from structprune import files
from structprune.data.images import ImageSet, Labels, Pixels
from structprune.errors import InputError
from structprune.files import UNREADABLE

Split = Literal["train", "test"]
Taken = TypeVar("Taken")

WHOLE: tuple[tuple[str, str], ...] = (("images", "labels"), ("x", "y"))
"""Names of (images, labels) in a file that has one part only."""

CHANNELS = (1, 3, 4)
"""Of grey, coloured and transparent images."""

PARTS: Mapping[Split, tuple[tuple[str, str], ...]] = {
    "train": (("train_images", "train_labels"), ("images_train", "labels_train"), ("x_train", "y_train")),
    "test": (("test_images", "test_labels"), ("images_test", "labels_test"), ("x_test", "y_test")),
}
"""Names of (images, labels) in a file that brings its own training and test part."""

CLASS_NAMES = ("classes", "class_names")
MOST_CLASSES = 1_000_000


def read_npz(path: Path, split: Split) -> ImageSet:
    """Read uint8 images and integer labels; ``split`` matters where the file has both parts.

    Raises:
        InputError: the file is no such archive, or its arrays are not labelled uint8 images.
    """
    names = array_names(path)
    images_name, labels_name = _chosen(names, split, path.name)
    classes_name = next((name for name in CLASS_NAMES if name in names), None)
    wanted = [name for name in (images_name, labels_name, classes_name) if name is not None]
    arrays = _open(path, lambda archive: files.read_arrays(archive, wanted))
    images = _images(arrays[images_name], f"{images_name!r} of {path.name}")
    labels = _labels(arrays[labels_name], len(images), f"{labels_name!r} of {path.name}")
    given = None if classes_name is None else arrays[classes_name]
    classes = _classes(given, labels, path.name)
    notes = _about_axes(arrays[images_name].shape, f"{images_name!r} of {path.name}")
    return ImageSet(images, labels, classes, name=path.stem, notes=notes)


def array_names(path: Path) -> tuple[str, ...]:
    """Return the names of the arrays in an ``.npz`` file.

    Raises:
        InputError: the file is no such archive.
    """
    return _open(path, files.array_names)


def has_test_part(path: Path) -> bool:
    """Tell whether an ``.npz`` file brings its own training and test part."""
    names = array_names(path)
    return all(any(set(pair) <= set(names) for pair in pairs) for pairs in PARTS.values())


def _open(path: Path, take: Callable[[Path], Taken]) -> Taken:
    try:
        return take(path)
    except UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path.name} can't be read as an .npz file of plain arrays: {reason}") from error


def _chosen(names: tuple[str, ...], split: Split, file: str) -> tuple[str, str]:
    for pair in (*PARTS[split], *WHOLE):
        if set(pair) <= set(names):
            return pair
    hint = "; 'resid' is a difference code, to be decoded to plain pixels first" if "resid" in names else ""
    expected = " or ".join(f"{images} and {labels}" for images, labels in (*WHOLE, *PARTS[split]))
    raise InputError(f"{file} holds {', '.join(names) or 'nothing'}; expected {expected}{hint}")


def _images(array: NDArray[Any], what: str) -> Pixels:
    if array.dtype != np.uint8:
        raise InputError(f"{what} are {array.dtype}; expected uint8 pixels from 0 to 255")
    if array.ndim not in (3, 4):
        raise InputError(
            f"{what} have shape {array.shape}; expected (N, H, W, C), or (N, H, W) where they are grey"
        )
    if 0 in array.shape:
        raise InputError(f"{what} have shape {array.shape}; expected at least one image")
    if array.ndim == 4 and array.shape[-1] not in CHANNELS and array.shape[1] in CHANNELS:
        raise InputError(f"{what} have shape {array.shape}; expected (N, H, W, C), the channels last")
    return array if array.ndim == 4 else array[..., None]


def _about_axes(shape: tuple[int, ...], what: str) -> tuple[str, ...]:
    """Say so where the channels might as well come first."""
    if len(shape) != 4 or shape[1] not in CHANNELS or shape[1:] == shape[:0:-1] == (1, 1, 1):
        return ()
    return (
        f"{what} have shape {shape}, read as {shape[1]} x {shape[2]} pixels of {shape[3]} channels; where "
        "the channels come first, move them to the end",
    )


def _labels(array: NDArray[Any], count: int, what: str) -> Labels:
    if array.dtype.kind not in "iu":
        raise InputError(f"{what} are {array.dtype}; expected integers, one class number an image")
    if array.shape not in ((count,), (count, 1)):
        raise InputError(f"{what} have shape {array.shape} beside {count} images; expected ({count},)")
    least, most = int(array.min()), int(array.max())
    if least < 0 or most >= MOST_CLASSES:
        raise InputError(f"{what} reach from {least} to {most}; expected class numbers from 0 on")
    return array.reshape(-1).astype(np.int64)


def _classes(given: NDArray[Any] | None, labels: Labels, file: str) -> tuple[str, ...]:
    count = int(labels.max()) + 1
    if given is None:
        return tuple(map(str, range(count)))
    if given.ndim != 1 or len(given) < count:
        raise InputError(f"{file} names {given.size} classes and its labels go up to {count - 1}")
    return tuple(map(str, given))
