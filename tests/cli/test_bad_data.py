"""Data that don't fit the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import Command, contents
from tests.cli.networks import save_images


def _floats(path: Path) -> None:
    np.savez(path, images=np.zeros((9, 28, 28, 1)), labels=np.zeros(9, np.int64))


def _objects(path: Path) -> None:
    np.savez(path, images=np.array([object()]), labels=np.zeros(1, np.int64))


def _with_a_pipe(path: Path) -> None:
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        Image.new("L", (28, 28)).save(path / name / "0.png")
    os.mkfifo(path / "cat" / "1.png")


def _claimed(path: Path) -> None:
    """Images of which the header says that there are 10,000, and there are 9."""
    np.savez(path, images=np.zeros((9, 28, 28, 1), np.uint8), labels=np.arange(9))
    content = path.read_bytes().replace(b"(9, 28, 28, 1), }    ", b"(10000, 28, 28, 1), }")
    path.write_bytes(content)


BAD: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "colour.npz": (lambda path: save_images(path, (28, 28, 3)), ("colour", "3 channels", "reads 1")),
    "many.npz": (lambda path: save_images(path, (28, 28, 1), first=3), ("many", "up to 12", "10 outputs")),
    "negative.npz": (lambda path: save_images(path, (28, 28, 1), first=-1), ("negative", "labels")),
    "first.npz": (
        lambda path: np.savez(path, images=np.zeros((9, 1, 28, 28), np.uint8), labels=np.arange(9)),
        ("first", "(9, 1, 28, 28)", "the channels last"),
    ),
    "floats.npz": (_floats, ("floats.npz", "uint8")),
    "objects.npz": (_objects, ("objects.npz", "plain arrays")),
    "text.npz": (lambda path: path.write_text("images"), ("text.npz",)),
    "missing.npz": (lambda path: None, ("missing.npz", "not there")),
    "folder": (lambda path: path.mkdir(), ("folder",)),
    "pipe.npz": (os.mkfifo, ("pipe.npz", "named pipe")),
    "pictures": (_with_a_pipe, ("cat/1.png", "named pipe")),
    "claimed.npz": (_claimed, ("claimed.npz", "7.84 MB")),
}


@pytest.mark.parametrize("verb", ["compress --nodes 0.5", "score"])
@pytest.mark.parametrize("name", BAD)
def test_unusable_data(name: str, verb: str, cli: Command, here: Path) -> None:
    make, words = BAD[name]
    make(here / name)
    before = contents(here)
    first, *options = verb.split()
    cli(first, "structprune:mlp", *options, "--data", name).refused(1, *words)
    assert contents(here) == before


def test_a_pipe_as_test_data(cli: Command, here: Path) -> None:
    save_images(here / "good.npz", (28, 28, 1))
    os.mkfifo(here / "pipe.npz")
    options = ("--nodes", 0.5, "--data", "good.npz", "--test-data", "pipe.npz")
    cli("compress", "structprune:mlp", *options).refused(1, "pipe.npz", "named pipe")


def test_notes_on_the_images_are_in_the_document(cli: Command, here: Path) -> None:
    save_images(here / "few.npz", (1, 28, 1))
    scored = cli("score", "structprune:mlp", "--score", "random", "--data", "few.npz", "--json").done()
    assert any("(400, 1, 28, 1)" in note for note in scored.document["notes"])


def test_unusable_test_data(cli: Command, here: Path) -> None:
    save_images(here / "good.npz", (28, 28, 1))
    save_images(here / "colour.npz", (28, 28, 3))
    before = contents(here)
    options = ("--nodes", 0.5, "--data", "good.npz", "--test-data", "colour.npz")
    cli("compress", "structprune:mlp", *options).refused(1, "colour", "3 channels")
    assert contents(here) == before


@pytest.mark.parametrize(("option", "value"), [("--std", 0), ("--std", -1), ("--mean", "nan")])
def test_statistics_that_no_image_has(option: str, value: object, cli: Command, here: Path) -> None:
    save_images(here / "good.npz", (28, 28, 1))
    before = contents(here)
    options = ("--nodes", 0.5, "--data", "good.npz", option, value, value, value)
    cli("compress", "structprune:mlp", *options).refused(2, option.strip("-"))
    assert contents(here) == before
