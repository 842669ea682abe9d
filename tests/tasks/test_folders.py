"""Class folders with links in them: every picture counts once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from structprune.data import ImageSet, read_images, without
from structprune.data.images import ImageFiles
from structprune.errors import InputError


def pets(folder: Path, count: int = 3) -> Path:
    """Pictures of cats and dogs, ``count`` of each."""
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (4, 4), (label, index, 7)).save(folder / name / f"{index}.png")
    return folder


def names(images: ImageSet) -> list[str]:
    assert isinstance(images.images, ImageFiles)
    return [f"{path.parent.name}/{path.name}" for path in images.images.paths]


EACH_ONCE = ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png", "dog/2.png"]


def _link_in_the_class(folder: Path) -> None:
    (folder / "cat" / "00.png").symlink_to("2.png")


def _hard_link(folder: Path) -> None:
    os.link(folder / "cat" / "2.png", folder / "cat" / "copy.png")


def _link_to_a_folder(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    (folder / "dog" / "1.png").rename(folder.parent / "elsewhere" / "1.png")
    (folder / "dog" / "1.png").symlink_to(folder.parent / "elsewhere" / "1.png")
    (folder / "dog" / "more").symlink_to(folder.parent / "elsewhere")


def _loops(folder: Path) -> None:
    for index in range(3):
        (folder / "cat" / f"loop{index}").symlink_to(".")


def _link_in_another_class(folder: Path) -> None:
    (folder / "cat" / "5.png").symlink_to("../dog/0.png")


TWICE = [_link_in_the_class, _hard_link, _link_to_a_folder, _link_in_another_class]


@pytest.mark.parametrize("link", TWICE)
def test_a_picture_that_is_reached_twice_counts_once(link: object, tmp_path: Path) -> None:
    link(pets(tmp_path / "pets"))  # type: ignore[operator]
    images = read_images(tmp_path / "pets")
    assert names(images) == EACH_ONCE
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    (note,) = images.notes
    assert "1 picture that links" in note
    assert ("another class: cat/5.png is dog/0.png" in note) == (link is _link_in_another_class)


def test_links_that_lead_back_up_are_walked_once(tmp_path: Path) -> None:
    _loops(pets(tmp_path / "pets"))
    assert names(read_images(tmp_path / "pets")) == EACH_ONCE


def test_links_without_a_second_way_are_pictures_as_others(tmp_path: Path) -> None:
    pets(tmp_path / "store")
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "dog").symlink_to(tmp_path / "store" / "dog")
    (tmp_path / "pets" / "cat" / "0.png").symlink_to(tmp_path / "store" / "cat" / "0.png")
    images = read_images(tmp_path / "pets")
    assert (names(images), images.notes) == (["cat/0.png", "dog/0.png", "dog/1.png", "dog/2.png"], ())


def test_a_class_that_is_a_link_to_another_has_nothing_of_its_own(tmp_path: Path) -> None:
    (pets(tmp_path / "pets") / "kitten").symlink_to("cat")
    with pytest.raises(InputError, match="kitten hold none of their own"):
        read_images(tmp_path / "pets")


def test_a_pipe_among_the_pictures_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(pets(tmp_path / "pets") / "dog" / "7.png")
    with pytest.raises(InputError, match=r"dog/7\.png is a named pipe"):
        read_images(tmp_path / "pets")


def test_a_link_to_nothing_is_refused_at_once(tmp_path: Path) -> None:
    (pets(tmp_path / "pets") / "dog" / "7.png").symlink_to("8.png")
    with pytest.raises(InputError, match=r"dog/7\.png can't be read: No such file"):
        read_images(tmp_path / "pets")


def test_test_pictures_are_not_learned_from(tmp_path: Path) -> None:
    learn = read_images(pets(tmp_path / "learn"))
    pets(tmp_path / "test")
    os.link(tmp_path / "learn" / "cat" / "1.png", tmp_path / "test" / "cat" / "7.png")
    apart = without(learn, read_images(tmp_path / "test"))
    assert names(apart) == [name for name in EACH_ONCE if name != "cat/1.png"]
    assert len(apart.labels) == 5
    assert "1 picture that links put among those of test" in apart.notes[0]


def test_the_same_pictures_are_no_test(tmp_path: Path) -> None:
    learn = read_images(pets(tmp_path / "learn"))
    (tmp_path / "test").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "test" / name).symlink_to(tmp_path / "learn" / name)
    with pytest.raises(InputError, match="are the same"):
        without(learn, read_images(tmp_path / "test"))


def test_notes_stay_when_images_are_taken(tmp_path: Path) -> None:
    _hard_link(pets(tmp_path / "pets"))
    assert read_images(tmp_path / "pets").take(np.array([0])).notes != ()


@pytest.mark.parametrize("shape", [(6, 3, 9, 3), (6, 1, 9, 1), (6, 4, 9, 3), (6, 3, 3, 3)])
def test_arrays_that_may_have_their_channels_first_get_a_note(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", images=np.zeros(shape, np.uint8), labels=np.arange(6))
    images = read_images(tmp_path / "some.npz")
    assert images.shape == (shape[3], shape[1], shape[2])
    assert f"have shape {shape}" in images.notes[0]
    assert "channels come first" in images.notes[0]


@pytest.mark.parametrize("shape", [(6, 8, 9, 3), (6, 8, 9), (6, 1, 1, 1), (6, 8, 3, 3)])
def test_other_arrays_get_none(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", images=np.zeros(shape, np.uint8), labels=np.arange(6))
    assert read_images(tmp_path / "some.npz").notes == ()
