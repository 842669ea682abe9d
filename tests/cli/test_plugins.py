"""Criteria of other packages, found by their entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import contents, in_own_process

METADATA = "Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n"
ENTRY_POINTS = "[structprune.criteria]\n{}\n"
MODULE = """
import torch
from structprune.scoring.scores import Scores


def backwards(gated, sampling):
    values = {name: -torch.arange(1.0, 1.0 + len(gate)) for name, gate in gated.ones().items()}
    return Scores(values, "backwards")


def failing(gated, sampling):
    raise ValueError("no moon tonight\\nsecond line")


def empty(gated, sampling):
    return Scores({}, "empty")
"""
NAMES = (
    "backwards = plug:backwards",
    "failing = plug:failing",
    "empty = plug:empty",
    "absent = plug.absent:score",
)


@pytest.fixture
def plug(tmp_path: Path) -> dict[str, str]:
    """An installed package that brings criteria, as environment variables."""
    site = tmp_path / "site"
    info = site / "plug-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(ENTRY_POINTS.format("\n".join(NAMES)))
    (site / "plug.py").write_text(MODULE)
    return {"PYTHONPATH": str(site)}


def test_a_plug_in_scores(plug: dict[str, str], here: Path) -> None:
    options = ("structprune:mlp", "--score", "backwards", "--json")
    document = in_own_process(here, "score", *options, env=plug).done().document
    assert document["scores"]["1"] == [-float(i) for i in range(1, 129)]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("failing", 1, ("ValueError: no moon tonight", "--debug")),
        ("empty", 1, ()),
        ("absent", 2, ("plug.absent:score", "can't be loaded")),
        ("unknown", 2, ("'unknown'", "backwards", "crop")),
    ],
)
def test_a_plug_in_that_fails(
    name: str, code: int, words: tuple[str, ...], plug: dict[str, str], here: Path
) -> None:
    before = contents(here)
    run = ("compress", "structprune:mlp", "--nodes", 0.5, "--score", name)
    finished = in_own_process(here, *run, env=plug)
    assert "second line" not in finished.refused(code, *words)
    assert contents(here) == before


def test_the_traceback_is_there_for_the_asking(plug: dict[str, str], here: Path) -> None:
    before = contents(here)
    run = ("compress", "structprune:mlp", "--nodes", 0.5, "--score", "failing", "--debug")
    finished = in_own_process(here, *run, env=plug)
    assert finished.code == 1
    assert "Traceback" in finished.err
    assert 'in failing\n    raise ValueError("no moon tonight' in finished.err
    assert contents(here) == before
