from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import MNIST

from structprune.data import has_test_split, read_images, to_batches
from structprune.data.images import ImageFiles
from structprune.errors import InputError, UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "some.npz"
    np.savez(path, **arrays)
    return path


def pictures(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """One picture of each size in each of the classes cat and dog."""
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index, (width, height) in enumerate(sizes):
            Image.new("RGB", (width, height), (label, index, 7)).save(folder / name / f"{index}.png")


@pytest.mark.parametrize(
    "names", [("images", "labels"), ("x", "y"), ("test_images", "test_labels"), ("x_test", "y_test")]
)
def test_npz_of_every_spelling(tmp_path: Path, names: tuple[str, str]) -> None:
    arrays = {names[0]: PIXELS, names[1]: LABELS.astype(np.uint8)[:, None]}
    images = read_images(npz(tmp_path, **arrays), split="test")
    assert np.array_equal(np.stack(list(images.images)), PIXELS)
    assert images.labels.tolist() == LABELS.tolist()
    assert images.labels.dtype == np.int64
    assert (images.name, images.classes, images.shape) == ("some", ("0", "1", "2"), (3, 8, 9))


def test_npz_with_two_parts(tmp_path: Path) -> None:
    path = npz(
        tmp_path, x_train=PIXELS, y_train=LABELS, x_test=PIXELS[:2], y_test=LABELS[:2], classes=list("abc")
    )
    assert has_test_split(path)
    assert [len(read_images(str(path), split=split)) for split in ("train", "test")] == [6, 2]
    assert read_images(path).classes == ("a", "b", "c")


def test_npz_of_grey_images_gets_a_channel(tmp_path: Path) -> None:
    path = npz(tmp_path, images=PIXELS[..., 0], labels=LABELS)
    assert read_images(path).shape == (1, 8, 9)
    assert not has_test_split(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS / 255, "labels": LABELS}, "'images' of some.npz are float64; expected uint8"),
        ({"images": PIXELS.astype(np.int64), "labels": LABELS}, "are int64; expected uint8"),
        ({"images": PIXELS[0, 0], "labels": LABELS}, r"shape \(9, 3\); expected \(N, H, W, C\)"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "at least one image"),
        ({"images": PIXELS, "labels": LABELS[:5]}, r"shape \(5,\) beside 6 images"),
        ({"images": PIXELS, "labels": np.eye(6)}, "are float64; expected integers"),
        ({"images": PIXELS, "labels": np.eye(6, dtype=np.int64)}, r"shape \(6, 6\) beside 6 images"),
        ({"images": PIXELS, "labels": LABELS - 1}, "reach from -1 to 1"),
        ({"images": PIXELS, "labels": LABELS + 2**62}, "reach from"),
        ({"images": PIXELS, "labels": LABELS, "classes": ["a", "b"]}, "names 2 classes"),
        ({"images": PIXELS}, "holds images; expected images and labels or x and y or train_images"),
        ({"resid": PIXELS, "labels": LABELS}, "'resid' is a difference code"),
        ({"images": np.array([{}] * 6), "labels": LABELS}, "Object arrays cannot be loaded"),
        ({}, "holds nothing"),
    ],
)
def test_npz_that_is_no_image_set_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_images(npz(tmp_path, **arrays))


@pytest.mark.parametrize(
    "content", [b"", b"text\n", b"PK\x03\x04 cut off", b"\x80\x04\x95pickle", b"\x93NUMPY"]
)
def test_npz_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"some\.npz can't be read as an \.npz file"):
        read_images(path)


def test_npz_cut_off_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, images=PIXELS, labels=LABELS)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match="can't be read"):
        read_images(path)


def test_a_lone_array_under_the_name_of_an_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "some.npy", PIXELS)
    (tmp_path / "some.npy").rename(tmp_path / "some.npz")
    with pytest.raises(InputError, match="can't be read"):
        read_images(tmp_path / "some.npz")


def test_digits_are_parted_for_good() -> None:
    train, test = read_images("digits"), read_images("digits", split="test")
    assert has_test_split("digits")
    assert (len(train), len(test)) == (1438, 359)
    assert train.shape == (1, 32, 32)
    assert isinstance(train.images, np.ndarray)
    assert train.images.min() == 0
    assert train.images.max() == 255
    everything = np.concatenate([train.labels, test.labels])
    assert np.array_equal(np.bincount(everything), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert np.bincount(test.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_no_test_digit_is_a_training_digit() -> None:
    train, test = (read_images("digits", split=split).images for split in ("train", "test"))
    assert isinstance(train, np.ndarray)
    assert isinstance(test, np.ndarray)
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    pictures(tmp_path / "pets", [(8, 8), (12, 8)])
    images = read_images(tmp_path / "pets")
    assert isinstance(images.images, ImageFiles)
    assert (images.name, images.classes, images.labels.tolist()) == ("pets", ("cat", "dog"), [0, 0, 1, 1])
    assert images.shape is None
    (batch,) = to_batches(images.take(np.array([3, 0])), size=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    assert (batch[0][:, :, 0, 0] * 255).round().tolist() == [[1, 1, 7], [0, 0, 7]]
    assert batch[1].tolist() == [1, 0]


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_a_folder_with_a_training_and_a_test_folder(name: str, tmp_path: Path) -> None:
    pictures(tmp_path / "train", [(8, 8), (8, 8)])
    pictures(tmp_path / name, [(8, 8)])
    assert has_test_split(tmp_path)
    assert [len(read_images(tmp_path, split=split)) for split in ("train", "test")] == [4, 2]
    assert read_images(tmp_path).shape == (3, 8, 8)


@pytest.mark.parametrize("names", [("train",), ("Training", "holdout"), ("test", "val")])
def test_parts_of_a_data_set_are_no_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        pictures(tmp_path / name, [(8, 8)])
    with pytest.raises(InputError, match=rf"{names[0]}.* no classes; expected class folders"):
        read_images(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    pictures(tmp_path, [(8, 8)])
    (tmp_path / "dog").rename(tmp_path / "train")
    assert read_images(tmp_path).classes == ("cat", "train")


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    pictures(tmp_path, [(8, 8)])
    (tmp_path / "dog" / "0.png").write_bytes(b"no picture")
    made = to_batches(read_images(tmp_path), size=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(InputError, match=r"dog/0\.png can't be read"):
        list(made)


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of class folders"):
        read_images(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="no folder of class folders"):
        read_images(tmp_path)


@pytest.mark.parametrize("spec", ["nowhere", "nowhere.npz", "cifar11:folder"])
def test_what_is_not_there_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match=f"{spec} is not there; expected a folder"):
        read_images(spec)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("1,2\n")
    with pytest.raises(InputError, match=r"some\.csv is no such thing; expected a folder"):
        read_images(tmp_path / "some.csv")


def test_a_torchvision_data_set_from_its_files(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 5), ("t10k", 2)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(PIXELS[:count, :, :, 0]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(LABELS[:count].astype(np.uint8)))
    train, test = read_images(f"mnist:{tmp_path}"), read_images("mnist", root=tmp_path, split="test")
    assert np.array_equal(np.stack(list(train.images)), PIXELS[:5, :, :, :1])
    assert test.labels.tolist() == [0, 1]
    assert (train.name, train.mirrors, len(train.classes)) == ("mnist", False, 10)


def idx(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """MNIST's own format: two zeros, type 8 (uint8), the dimensions, the bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes() + array.tobytes()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist"])
def test_a_missing_torchvision_data_set_is_not_fetched_unasked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object) -> None:
        raise AssertionError("something asked the network")

    monkeypatch.setattr(socket, "create_connection", offline)
    with pytest.raises(InputError, match=f"{name} can't be read from .*expected a folder that holds"):
        read_images(f"{name}:{tmp_path}")
    with pytest.raises(UsageError, match=f"expected {name}:FOLDER"):
        read_images(name)


def test_a_failing_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(MNIST, "download", refused)
    with pytest.raises(InputError, match="no route"):
        read_images(f"mnist:{tmp_path}", download=True)


def test_real_images(shared_data: Path) -> None:
    train = read_images(shared_data / "cifar10_mini.npz")
    assert (len(train), train.shape, train.classes[0]) == (256, (3, 32, 32), "airplane")
    with pytest.raises(InputError, match="'resid' is a difference code"):
        read_images(shared_data / "cifar10_test5k.npz")
