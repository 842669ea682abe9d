"""Class folders of pictures: which there are, each counted once however many links lead to it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from structprune.data.images import ImageFiles, ImageSet
from structprune.errors import InputError
from structprune.files import check_regular, shown

Identity: TypeAlias = tuple[int, int]
"""Device and number of a file, the same through every link."""


@dataclass(frozen=True)
class Picture:
    """A picture file where it was found.

    Attributes:
        path: where.
        label: number of the class in whose folder that is.
        identity: of the file.
    """

    path: Path
    label: int
    identity: Identity


def read_class_folders(folder: Path) -> ImageSet:
    """Find the pictures below a folder of class folders; none is decoded.

    Args:
        folder: one folder a class, with pictures in it or in folders below; links are followed.

    Returns:
        The pictures, sorted by class, folder and name. One that is reached twice counts once, where it lies
        itself rather than where a link to it does.

    Raises:
        InputError: there are no classes, a class has no picture of its own, or one is no regular file.
    """
    try:
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError as error:
        raise InputError(f"{folder.name} can't be read: {error.strerror}") from error
    pictures = [p for label, name in enumerate(classes) for p in _pictures_in(folder / name, label)]
    single, notes = _once(pictures, folder, classes)
    _check_classes(folder, classes, single)
    labels = np.array([picture.label for picture in single], dtype=np.int64)
    files = ImageFiles(tuple(picture.path for picture in single))
    return ImageSet(files, labels, tuple(classes), folder.name, any_channels=True, notes=notes)


def _check_classes(folder: Path, classes: Sequence[str], pictures: Sequence[Picture]) -> None:
    filled = {picture.label for picture in pictures}
    empty = [name for label, name in enumerate(classes) if label not in filled]
    if empty or not classes:
        what = f"{', '.join(map(shown, empty[:5]))} hold none of their own" if empty else "it holds no folder"
        raise InputError(f"{folder.name} is no folder of class folders with pictures in them: {what}")


def _pictures_in(folder: Path, label: int) -> Iterator[Picture]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    for place, names in sorted(_walk(folder)):
        for name in sorted(names):
            if name.lower().endswith(IMG_EXTENSIONS):
                path = Path(place, name)
                status = check_regular(path, f"{shown(path.parent.name)}/{shown(name)}")
                yield Picture(path, label, (status.st_dev, status.st_ino))


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield folders and the names of their files, each folder once: links may lead back up."""
    seen: set[Identity] = set()
    for place, below, names in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below.sort()
        yield place, names


def _once(
    pictures: Sequence[Picture], folder: Path, classes: Sequence[str]
) -> tuple[list[Picture], tuple[str, ...]]:
    """Keep each file once, in order, and say how many others there were."""
    chosen = _chosen(pictures, folder)
    single = [picture for picture in pictures if chosen[picture.identity] is picture]
    again = [picture for picture in pictures if chosen[picture.identity] is not picture]
    if not again:
        return single, ()
    strange = [picture for picture in again if chosen[picture.identity].label != picture.label]
    note = f"{folder.name}: {_pictures(len(again))} that links lead to a second time count once"
    if strange:
        first = strange[0]
        other = chosen[first.identity]
        note += (
            f", {len(strange)} of them under another class: {classes[first.label]}/{shown(first.path.name)} "
            f"is {classes[other.label]}/{shown(other.path.name)}"
        )
    return single, (note,)


def _chosen(pictures: Sequence[Picture], folder: Path) -> Mapping[Identity, Picture]:
    """File -> the picture that stands for it: one that no link leads to, else the first."""
    groups: dict[Identity, list[Picture]] = defaultdict(list)
    for picture in pictures:
        groups[picture.identity].append(picture)
    root = Path(os.path.realpath(folder))
    return {
        identity: next((p for p in group if _lies_there(p.path, folder, root)), group[0])
        if len(group) > 1
        else group[0]
        for identity, group in groups.items()
    }


def _lies_there(path: Path, folder: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)) == root / path.relative_to(folder)


def without(learn: ImageSet, test: ImageSet) -> ImageSet:
    """Pictures to learn from without those that are test pictures too, by links.

    Raises:
        InputError: all of them are.
    """
    if not isinstance(learn.images, ImageFiles) or not isinstance(test.images, ImageFiles):
        return learn
    tested = {_identity(path) for path in test.images.paths}
    apart = np.array([_identity(path) not in tested for path in learn.images.paths], dtype=bool)
    if apart.all():
        return learn
    if not apart.any():
        raise InputError(f"the pictures of {learn.name} and {test.name} are the same; give others to test on")
    count = int((~apart).sum())
    note = f"{learn.name}: {_pictures(count)} that links put among those of {test.name} too count there"
    return replace(learn.take(np.flatnonzero(apart)), notes=(*learn.notes, note))


def _pictures(count: int) -> str:
    return f"{count} picture" + "s" * (count != 1)


def _identity(path: Path) -> Identity:
    status = check_regular(path, f"{shown(path.parent.name)}/{shown(path.name)}")
    return status.st_dev, status.st_ino
