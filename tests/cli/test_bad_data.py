"""Data that don't fit the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.command import Command, contents
from tests.cli.networks import save_images


def _floats(path: Path) -> None:
    np.savez(path, images=np.zeros((9, 28, 28, 1)), labels=np.zeros(9, np.int64))


def _objects(path: Path) -> None:
    np.savez(path, images=np.array([object()]), labels=np.zeros(1, np.int64))


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
