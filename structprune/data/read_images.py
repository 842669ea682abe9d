"""Images from wherever a user keeps them: a folder, an array file, or the name of a data set."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from structprune.data.arrays import Split, has_test_part, read_npz
from structprune.data.folders import read_class_folders
from structprune.data.images import ImageSet, Pixels
from structprune.data.splits import hold_out
from structprune.errors import InputError, UsageError, argument

DIGITS_SIDE = 32
EXPECTED = "a folder of class folders, an .npz file, 'digits', or one of {} with ':' and its folder"


@dataclass(frozen=True)
class DataSet:
    """What there is to know of a torchvision data set.

    Attributes:
        builder: its class in ``torchvision.datasets``.
        mirrors: whether an image seen in a mirror keeps its label.
        files: what its folder holds, for messages.
    """

    builder: str
    mirrors: bool
    files: str


DATA_SETS = {
    "cifar10": DataSet("CIFAR10", mirrors=True, files="cifar-10-batches-py"),
    "cifar100": DataSet("CIFAR100", mirrors=True, files="cifar-100-python"),
    "mnist": DataSet("MNIST", mirrors=False, files="MNIST/raw"),
    "fashion-mnist": DataSet("FashionMNIST", mirrors=True, files="FashionMNIST/raw"),
}

PART_FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "test": ("test", "val", "valid", "validation"),
}


def read_images(
    spec: str | Path, *, root: Path | None = None, download: bool = False, split: Split = "train"
) -> ImageSet:
    """Read labelled images.

    Args:
        spec: a folder of class folders; an ``.npz`` of uint8 images and labels; ``digits`` (scikit-learn's,
            at 32 px); or a torchvision data set and its folder, ``cifar10:FOLDER`` (also cifar100, mnist,
            fashion-mnist).
        root: the folder of a torchvision data set, where ``spec`` doesn't carry it.
        download: fetch a torchvision data set that is not there.
        split: which part, where the data have two (see :func:`has_test_split`); otherwise all is read.

    Returns:
        The images; a folder's are decoded only when they are needed.

    Raises:
        InputError: there are no labelled images there.
        UsageError: a torchvision data set without its folder.
    """
    name, _, folder = str(spec).partition(":")
    if name in DATA_SETS:
        return _read_data_set(name, Path(folder) if folder else root, download, split)
    if str(spec) == "digits":
        return _read_digits(split)
    path = Path(spec)
    if path.is_dir():
        return _read_folder(_part_folder(path, split))
    if path.suffix == ".npz" and path.exists():
        return read_npz(path, split)
    state = "is no such thing" if path.exists() else "is not there"
    raise InputError(f"{path.name or path} {state}; expected {EXPECTED.format(', '.join(DATA_SETS))}")


def has_test_split(spec: str | Path) -> bool:
    """Tell whether the data bring images of their own to judge on, as ``split="test"`` reads them.

    Raises:
        InputError: an ``.npz`` file can't be read.
    """
    path = Path(spec)
    if str(spec) == "digits" or str(spec).partition(":")[0] in DATA_SETS:
        return True
    if path.suffix == ".npz" and path.exists():
        return has_test_part(path)
    return path.is_dir() and _has_part_folders(path)


def same_place(one: str, other: str) -> bool:
    """Tell whether two names of data are of one and the same."""
    paths = (Path(one), Path(other))
    return one == other or (all(p.exists() for p in paths) and paths[0].samefile(paths[1]))


def check_same_classes(learn: ImageSet, test: ImageSet) -> None:
    """Refuse test images whose classes are others.

    Folders number their classes by name, so a class that one lacks would shift every label behind it.

    Raises:
        InputError: naming some of both.
    """
    common = min(len(learn.classes), len(test.classes))
    if learn.classes[:common] != test.classes[:common]:
        raise InputError(
            f"{argument('data')} and {argument('test_data')} name their classes differently: "
            f"{', '.join(learn.classes[:5])}, ... "
            f"and {', '.join(test.classes[:5])}, ...; give both the same class folders"
        )


def _read_digits(split: Split) -> ImageSet:
    """Read scikit-learn's 8 x 8 digits, enlarged to 32 x 32; always the same 80 % train and 20 % test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    parts = dict(zip(("train", "test"), hold_out(labels, 0.2, seed=0), strict=True))
    images = _enlarged(digits.images)
    every = ImageSet(images, labels, tuple(map(str, range(10))), "digits", any_channels=True, mirrors=False)
    return every.take(parts[split])


def _enlarged(images_NHW: Any) -> Pixels:
    import torch
    from torch.nn import functional

    small = torch.from_numpy(images_NHW).float()[:, None] * (255 / 16)
    large = functional.interpolate(
        small, size=(DIGITS_SIDE, DIGITS_SIDE), mode="bilinear", align_corners=False
    )
    pixels: Pixels = large.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def _read_folder(folder: Path) -> ImageSet:
    images = read_class_folders(folder)
    _check_no_parts(folder, images.classes)
    return images


def _check_no_parts(folder: Path, classes: Sequence[str]) -> None:
    """Refuse parts of a data set where classes are expected: they would be learned instead.

    A class may well be called train; what holds folders is no class.
    """
    names = {"training", *chain(*PART_FOLDERS.values())}
    parts = [name for name in classes if name.lower() in names and any(_folders_in(folder / name))]
    if parts:
        known = " or ".join(PART_FOLDERS["test"])
        raise InputError(
            f"{folder.name} holds {', '.join(classes[:5])}, of which {', '.join(parts)} hold folders and are "
            f"no classes; expected class folders, or train beside {known}, each with class folders in it"
        )


def _folders_in(folder: Path) -> Iterator[Path]:
    return (child for child in folder.iterdir() if child.is_dir())


def _has_part_folders(folder: Path) -> bool:
    return all(any((folder / name).is_dir() for name in names) for names in PART_FOLDERS.values())


def _part_folder(folder: Path, split: Split) -> Path:
    """Return the training or test folder where there are both, otherwise the folder itself."""
    if not _has_part_folders(folder):
        return folder
    return next(folder / name for name in PART_FOLDERS[split] if (folder / name).is_dir())


def _read_data_set(name: str, root: Path | None, download: bool, split: Split) -> ImageSet:
    from torchvision import datasets

    if root is None:
        raise UsageError(f"{name} without its folder; expected {name}:FOLDER")
    known = DATA_SETS[name]
    found = _opened(getattr(datasets, known.builder), name, root, download, split)
    images = np.asarray(found.data, dtype=np.uint8)
    labels = np.asarray(found.targets, dtype=np.int64)
    grey = images.ndim == 3
    pixels = images[..., None] if grey else images
    return ImageSet(pixels, labels, tuple(found.classes), name, any_channels=grey, mirrors=known.mirrors)


def _opened(builder: Callable[..., Any], name: str, root: Path, download: bool, split: Split) -> Any:
    """Open a torchvision data set; CIFAR's pickles are read only after their published checksums held."""
    try:
        with warnings.catch_warnings():
            # NumPy 2.4 on the old pickles of CIFAR.
            warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
            return builder(str(root), train=split == "train", download=download)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        files = DATA_SETS[name].files
        raise InputError(
            f"{name} can't be read from {root.name or root}: {error}; expected a folder that holds {files}"
        ) from error
