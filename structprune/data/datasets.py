"""Tasks by name: training and test images, wherever the user keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from structprune.data.folders import without
from structprune.data.images import ImageFiles, ImageSet
from structprune.data.read_images import (
    DATA_SETS,
    check_same_classes,
    has_test_split,
    read_images,
    same_place,
)
from structprune.data.splits import hold_out
from structprune.errors import InputError, UsageError, argument

FOLDERS = ("tiny-imagenet", "imagenet")
ANNOTATIONS = "val_annotations.txt"


@dataclass(frozen=True)
class Task:
    """What is learned and what it is judged on.

    Attributes:
        learn: images to train, validate and score on.
        test: images that take no part in any of it.
        how: where the test images come from, in words.
    """

    learn: ImageSet
    test: ImageSet
    how: str


def read_task(
    task: str, root: Path | None = None, download: bool = False, test_data: str | None = None, seed: int = 0
) -> Task:
    """Return training and test images of a task.

    Args:
        task: ``digits``; a torchvision data set (``cifar10``, with its root); ``tiny-imagenet`` or
            ``imagenet``, whose root has ``train`` and ``val``; a folder of class folders; an ``.npz``.
        root: the folder of the data.
        download: fetch a torchvision data set that is not there.
        test_data: test images, where the task brings none of its own.
        seed: of what is held out, where there are no test images.

    Raises:
        InputError: there are no labelled images there.
        UsageError: the task needs a root, has test images of its own, or is given as its own test.
    """
    name, _, place = task.partition(":")
    folder = Path(place) if place else root
    if test_data is not None and (name in FOLDERS or name in DATA_SETS or task == "digits"):
        raise UsageError(
            f"{argument('test_data', test_data)}: {name} has test images of its own; leave it out"
        )
    if name in FOLDERS:
        learn, test = _from_folders(name, folder)
        return Task(without(learn, test), test, "its validation part")
    spec = task if name not in DATA_SETS or place else f"{name}:{_rooted(name, root)}"
    learn = read_images(spec, download=download)
    if test_data is not None:
        if same_place(task, test_data):
            raise UsageError(
                f"{argument('task')} and {argument('test_data')} are the same images; leave the second out"
            )
        test = read_images(test_data, split="test" if has_test_split(test_data) else "train")
        check_same_classes(learn, test)
        return Task(without(learn, test), test, "images of their own")
    if has_test_split(spec):
        test = read_images(spec, download=download, split="test")
        return Task(without(learn, test), test, "its test part")
    kept, held = hold_out(learn.labels, seed=seed)
    how = f"{len(held)} of its images, held out before anything else"
    return Task(learn.take(kept), learn.take(held), how)


def _rooted(name: str, root: Path | None) -> Path:
    if root is None:
        raise UsageError(
            f"{argument('task', name)} needs the folder of its data: {argument('root', 'FOLDER')}"
        )
    return root


def _from_folders(name: str, root: Path | None) -> tuple[ImageSet, ImageSet]:
    folder = _rooted(name, root)
    if not (folder / "train").is_dir() or not (folder / "val").is_dir():
        raise InputError(f"{folder.name} is no folder of {name}; expected one with train and val in it")
    learn = read_images(folder / "train")
    if (folder / "val" / ANNOTATIONS).is_file():
        return learn, _annotated(folder / "val", learn)
    return learn, read_images(folder / "val")


def _annotated(folder: Path, learn: ImageSet) -> ImageSet:
    """Tiny-ImageNet's validation images lie in one folder, with their classes in a table beside it."""
    lines = (folder / ANNOTATIONS).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t")[:2] for line in lines if line.strip()]
    numbers = {name: i for i, name in enumerate(learn.classes)}
    try:
        labels = np.array([numbers[name] for _, name in pairs], dtype=np.int64)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{ANNOTATIONS} names a class that the training images don't have: {error}"
        ) from error
    files = ImageFiles(tuple(folder / "images" / file for file, _ in pairs))
    return ImageSet(files, labels, learn.classes, folder.name, any_channels=True)
