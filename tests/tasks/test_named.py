from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from structprune.data.datasets import read_task
from structprune.errors import InputError, UsageError


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def tiny_imagenet(tmp_path: Path) -> Path:
    """The layout of Tiny-ImageNet: validation images in one folder, their classes in a table."""
    for i, name in enumerate(("n01", "n02")):
        for j in range(3):
            picture(tmp_path / "train" / name / "images" / f"{name}_{j}.JPEG", 100 * i + j)
    rows = []
    for j, name in enumerate(("n02", "n01", "n02")):
        picture(tmp_path / "val" / "images" / f"val_{j}.JPEG", 10 * j)
        rows.append(f"val_{j}.JPEG\t{name}\t0\t0\t7\t7")
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_digits_bring_their_own_test_images() -> None:
    task = read_task("digits")
    learn, test = task.learn, task.test
    assert (len(learn), len(test)) == (1438, 359)


def test_tiny_imagenet(tiny_imagenet: Path) -> None:
    task = read_task("tiny-imagenet", tiny_imagenet)
    learn, test = task.learn, task.test
    assert learn.classes == test.classes == ("n01", "n02")
    assert learn.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.labels.tolist() == [1, 0, 1]
    assert [int(stack[0, 0, 0, 0]) // 10 for stack in test.stacks()] == [0, 1, 2]


def test_tiny_imagenet_with_a_class_that_nobody_learns(tiny_imagenet: Path) -> None:
    table = tiny_imagenet / "val" / "val_annotations.txt"
    table.write_text(table.read_text() + "val_0.JPEG\tn09\t0\t0\t7\t7\n")
    with pytest.raises(InputError, match="n09"):
        read_task("tiny-imagenet", tiny_imagenet)


def test_imagenet_has_class_folders_in_both_parts(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for i, name in enumerate(("a", "b")):
            picture(tmp_path / part / name / "one.png", i)
    task = read_task("imagenet", tmp_path)
    learn, test = task.learn, task.test
    assert learn.labels.tolist() == test.labels.tolist() == [0, 1]


def test_what_brings_no_test_images_gives_a_fifth_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, images=np.zeros((50, 4, 4, 3), dtype=np.uint8), labels=np.arange(50) % 5)
    task = read_task(str(path))
    learn, test = task.learn, task.test
    assert (len(learn), len(test)) == (40, 10)
    assert np.bincount(test.labels).tolist() == [2] * 5


def test_test_images_of_their_own(tmp_path: Path) -> None:
    for name, count in (("learn", 20), ("test", 6)):
        images = np.zeros((count, 4, 4, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(count) % 2)
    task = read_task(str(tmp_path / "learn.npz"), test_data=str(tmp_path / "test.npz"))
    learn, test = task.learn, task.test
    assert (len(learn), len(test)) == (20, 6)


@pytest.mark.parametrize("task", ["cifar10", "imagenet"])
def test_a_task_without_its_folder(task: str) -> None:
    with pytest.raises(UsageError, match="root=FOLDER"):
        read_task(task)
