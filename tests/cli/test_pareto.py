"""``structprune pareto`` with the real runtime, on networks that take seconds."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from structprune.hardware.profile import to_json
from tests.cli.command import Command, contents
from tests.cli.networks import save_images
from tests.device_profiles import made_up

TINY = ("pareto", "tiny:network", "--input-size", 3, 8, 8, "--score", "magnitude")


def test_a_sweep(cli: Command, here: Path) -> None:
    shown = cli(*TINY, "--points", 4, "-o", "swept").done()
    assert set(contents(here / "swept")) == {"pareto.json", "pareto.svg"}
    document = json.loads((here / "swept" / "pareto.json").read_text())
    points = document["points"]
    assert [point["nodes"] for point in points] == pytest.approx([0.0, 0.3, 0.6, 0.9])
    for name in ("parameters", "flops", "kept_score"):
        values = [point[name] for point in points]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 4
    assert points[0]["kept_score"] == 1.0
    assert points[0]["ratio"] is None
    assert all(point["ratio"]["low"] <= point["ratio"]["value"] for point in points[1:])
    assert all(0 < point["fast"] <= point["latency"] <= point["slow"] for point in points)
    assert points[0]["best"] or points[0]["latency"] > min(point["latency"] for point in points)
    assert (document["batch"], document["threads"], document["by"]) == (1, 1, "nodes")
    assert str(here) not in json.dumps(document)
    ElementTree.fromstring((here / "swept" / "pareto.svg").read_text())
    for words in (
        "nodes removed",
        "multiply-adds",
        "speed-up (95 %)",
        "kept score",
        "0.9000",
        "Written to swept",
    ):
        assert words in shown.out


def test_by_parameters_and_json(cli: Command, here: Path) -> None:
    before = contents(here)
    document = (
        cli(*TINY, "--points", 3, "--by", "params", "--measure-batch", 2, "--json", "-q").done().document
    )
    first, middle, last = (point["parameters"] for point in document["points"])
    assert first > middle > last
    assert abs(middle - (first + last) / 2) < 0.1 * first
    assert document["batch"] == 2
    assert contents(here) == before


def test_with_data_accuracy_is_drawn(cli: Command, here: Path) -> None:
    save_images(here / "data.npz", (8, 8, 3), each=8, classes=4)
    shown = cli(*TINY, "--data", "data.npz", "--points", 2, "-o", "out").done()
    assert "accuracy" in shown.out
    document = json.loads((here / "out" / "pareto.json").read_text())
    assert all(0 <= point["accuracy"] <= 1 for point in document["points"])
    assert "top-1 accuracy [%]" in (here / "out" / "pareto.svg").read_text()


def test_cuts_are_mended_before_they_are_judged(cli: Command, here: Path) -> None:
    save_images(here / "data.npz", (8, 8, 3), each=8, classes=4)
    asked = (*TINY, "--data", "data.npz", "--points", 3, "--json", "-q", "--correct")
    plain, mended = (cli(*asked, how).done().document for how in ("none", "least-squares"))
    assert mended["accuracy_how"] == f"{plain['accuracy_how']}; each cut mended by least-squares"
    assert [p["parameters"] for p in mended["points"]] == [p["parameters"] for p in plain["points"]]
    cli(*TINY, "--points", 2, "--correct", "least-squares").refused(2, "--correct", "--data")


def test_widths_that_a_device_likes(cli: Command, here: Path) -> None:
    (here / "device.json").write_text(to_json(made_up()), encoding="utf-8")
    asked = (*TINY, "--points", 3, "--json", "-q", "--align")
    liked, free = (
        cli(*asked, *words).done().document for words in (("auto", "--profile", "device.json"), ("1",))
    )
    assert (liked["align"], free["align"]) == ("auto", 1)
    assert [p["nodes"] for p in liked["points"]] == [p["nodes"] for p in free["points"]]
    assert any("widths chosen by the profile made-up" in note for note in liked["notes"])
    cli(*TINY, "--profile", "device.json").refused(2, "--profile", "--align auto")


def test_files_that_are_there_are_kept(cli: Command, here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "pareto.svg").write_text("older")
    (here / "out" / "notes.txt").write_text("mine")
    before = contents(here)
    cli(*TINY, "--points", 2, "-o", "out").refused(1, "pareto.svg", "--force")
    cli(*TINY, "--points", 2, "-o", "tiny.py").refused(1, "tiny.py", "folder")
    cli(*TINY, "--points", 2, "-o", "no/where").refused(1, "where", "no folder")
    assert contents(here) == before
    cli(*TINY, "--points", 2, "-o", "out", "--force").done()
    assert (here / "out" / "pareto.svg").read_text().startswith("<svg")
    assert (here / "out" / "notes.txt").read_text() == "mine"


def test_a_result_beside_a_sweep_can_still_be_replaced(cli: Command, here: Path) -> None:
    compress = ("compress", *TINY[1:], "--nodes", 0.2, "--no-export", "--no-measure", "-o", "out")
    cli(*compress).done()
    cli(*TINY, "--points", 2, "-o", "out").done()
    cli(*compress, "--force").done()
    assert "pareto.json" not in {path.name for path in (here / "out").iterdir()}
