"""Networks that are no classifiers, from the shell: ``--loss``, and scores that take none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Command
from tests.cli.networks import save_images

OTHERS = """
from torch import nn


def one_output():
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 1, 1))


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1))

    def forward(self, x):
        return {"boxes": self.body(x)}


class Lists(Parts):
    def forward(self, x):
        return [{"boxes": self.body(x)}]
"""
SIZE = ("--input-size", 3, 8, 8)


@pytest.fixture
def others(here: Path) -> None:
    (here / "others.py").write_text(OTHERS)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("network", ["one_output", "Parts"])
def test_all_verbs_take_networks_that_are_no_classifiers(network: str, cli: Command) -> None:
    spec, score = f"others:{network}", ("--score", "filter_norm")
    half = ("--nodes", 0.5, "--no-measure", "--no-export", "-o", "out", "--json")
    report = cli("compress", spec, *SIZE, *score, *half).done().document
    assert (report["nodes"]["after"], report["loss"]) == (8, None)
    scores = cli("score", spec, *SIZE, *score, "--json").done().document
    assert [len(row) for row in scores["scores"].values()] == [16]
    cli("pareto", spec, *SIZE, *score, "--points", 2).done()
    cli("export", spec, *SIZE, "-o", "whole.onnx").done()


@pytest.mark.usefixtures("others")
def test_an_output_without_a_loss_takes_a_score_without_one(cli: Command) -> None:
    found = cli("score", "others:Lists", *SIZE, "--score", "filter_norm", "--json").done().document
    assert found["loss"] is None
    cli("score", "others:Lists", *SIZE, "--score", "snip").refused(1, "no loss is known", "filter_norm")


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((), "mean squared error"),
        (("--loss", "mse"), "mean squared error"),
        (("--loss", "bce"), "binary cross entropy"),
    ],
)
def test_the_loss_is_named(asked: tuple[str, ...], words: str, cli: Command) -> None:
    found = cli("score", "others:one_output", *SIZE, "--score", "snip", *asked, "--json").done().document
    assert found["loss"].startswith(words)
    assert any(words in note for note in found["notes"])


@pytest.mark.usefixtures("others")
def test_a_loss_that_does_not_fit(cli: Command) -> None:
    score = ("score", "others:one_output", *SIZE, "--score", "snip")
    cli(*score, "--loss", "l1").refused(2, "--loss l1", "cross-entropy, mse or bce")
    cli(*score, "--loss", "cross-entropy").refused(1, "over one class")


def test_images_may_be_scored_by_another_loss(cli: Command, here: Path) -> None:
    save_images(here / "images.npz", (8, 8, 3), each=12, classes=4)
    asked = ("score", "tiny:network", "--data", "images.npz", "--score", "snip", "--json")
    found = [
        cli(*asked, *loss).done().document for loss in ((), ("--loss", "cross-entropy"), ("--loss", "bce"))
    ]
    assert [row["loss"] for row in found] == ["cross entropy", "cross entropy", "binary cross entropy"]
    assert found[0]["scores"] == found[1]["scores"] != found[2]["scores"]
