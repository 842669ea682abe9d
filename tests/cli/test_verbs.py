"""Every other verb on small networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

import structprune
from structprune.scoring.criteria import CRITERIA
from structprune.training.methods import METHODS
from tests.cli.command import Command, contents, in_own_process
from tests.cli.networks import save_images, save_mlp

TINY = ("tiny:network", "--input-size", 3, 8, 8)


def test_inspect(cli: Command) -> None:
    document = cli("inspect", *TINY, "--json").done().document
    assert (document["nodes"], document["input_size"]) == (20, [3, 8, 8])
    assert document["reachable"] == [0, 0.9]  # two of twenty must stay
    groups = {group["name"]: group for group in document["groups"]}
    assert {name: group["size"] for name, group in groups.items()} == {"0": 8, "3": 12}
    assert (groups["0"]["producers"], groups["0"]["consumers"]) == (["0"], ["3"])
    assert document["protected"] == [{"layer": "7", "reason": "it produces the network's outputs"}]
    shown = cli("inspect", *TINY).done()
    assert "2 groups of coupled channels" in shown.out
    assert "20 nodes; --nodes 0 to 0.900 can be reached." in shown.out
    assert "it produces the network's outputs" in shown.out


def test_inspect_says_what_it_assumed(cli: Command) -> None:
    shown = cli("inspect", "tiny:network").done()
    assert "Note: input size assumed 3 x 224 x 224" in shown.out
    assert "- input size assumed 3 x 224 x 224" in shown.err


def test_inspect_tries_what_the_graph_says(cli: Command) -> None:
    document = cli("inspect", "tiny:FixedWidth", *TINY[1:], "--json").done().document
    assert [group["name"] for group in document["groups"]] == ["conv"]
    assert "trial cut" in {row["layer"]: row["reason"] for row in document["protected"]}["first"]
    assert list(cli("score", "tiny:FixedWidth", *TINY[1:], "--json").done().document["scores"]) == ["conv"]


def test_inspect_knows_alignment_and_floor(cli: Command) -> None:
    def reachable(*options: object) -> float:
        most: float = cli("inspect", *TINY, *options, "--json").done().document["reachable"][1]
        return most

    assert reachable("--floor", 0.5) == 0.5
    assert reachable("--align", 4) == 0.6  # 4 of 8 and 8 of 12


def test_score(cli: Command, here: Path) -> None:
    save_mlp(here / "net.pt")
    shown = cli("score", "net.pt", "--score", "magnitude", "-o", "scores.json").done()
    document = json.loads((here / "scores.json").read_text())
    assert document == cli("score", "net.pt", "--score", "magnitude", "--json").done().document
    weights_OI = torch.load(here / "net.pt", weights_only=True)["1.weight"]
    largest = int(np.argmax(document["scores"]["1"]))
    assert largest == int(weights_OI.norm(dim=1).argmax())
    assert len(document["scores"]["3"]) == 128
    picture = [line for line in shown.out.splitlines() if "▁" in line or "█" in line]
    assert len(picture) == 2
    assert shown.out.endswith("Written to scores.json\n")


def test_score_on_data(cli: Command, here: Path) -> None:
    save_images(here / "data.npz", (28, 28, 1))
    options = ("--data", "data.npz", "--score", "snip+magnitude", "--json")
    document = cli("score", "structprune:mlp", *options).done().document
    assert document["score"] == "snip+magnitude"
    assert document["data"] == "256 images of data"
    assert {name: len(row) for name, row in document["scores"].items()} == {"1": 128, "3": 128}


def test_export(result: Path, cli: Command, here: Path) -> None:
    document = cli("export", "result", "--opset", 17, "--json").done().document
    assert (document["file"], document["proof"]["passed"]) == ("result.onnx", True)
    assert cli("export", "result", "-o", "again.onnx").done().out.startswith("again.onnx: proof onnx passed")
    session = ort.InferenceSession(here / "result.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(3, 1, 28, 28)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = structprune.load(result)(x)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_measure(result: Path, cli: Command) -> None:
    options = ("--energy-seconds", 0.2, "--measure-batch", 4)
    document = cli("measure", "structprune:mlp", "result", *options, "--json").done().document
    dense, small = document["networks"]
    assert (dense["model"], small["model"]) == ("mlp", "result")
    names = [row["name"] for row in small["measurements"]]
    assert [row["name"] for row in dense["measurements"]] == names
    assert set(names) == {"flops", "disk", "batch_time", "memory", "energy", "emissions"}
    by_name = {row["name"]: row for row in small["measurements"]}
    assert by_name["flops"]["ratio"]["value"] > 2
    assert by_name["batch_time"]["batch"] == 4


def test_measure_side_by_side(cli: Command) -> None:
    options = ("--energy-seconds", 0.1, "--measure-batch", 1)
    shown = cli("measure", *TINY[:1], *TINY[:1], *TINY[1:], *options).done()
    rows = [line for line in shown.out.splitlines() if line.startswith("│")]
    assert len({row.split("│")[1] for row in rows}) == len(rows) >= 8
    assert "per 1,000 inferences [J]" in shown.out


def test_report(result: Path, cli: Command) -> None:
    text = (result / "report.json").read_text()
    assert cli("report", "result", "--json").done().out == text
    assert cli("report", "result/report.json", "--json").done().out == text
    shown = cli("report", "result").done().out
    for words in ("closed_gates", "node sparsity", "50.0 %", "Note: scored on random inputs"):
        assert words in shown


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"schema": 1}', '{"schema": 99}', "\xff"])
def test_a_report_that_is_none(text: str | None, cli: Command, here: Path) -> None:
    (here / "result").mkdir()
    if text is not None:
        (here / "result" / "report.json").write_text(text, encoding="latin-1")
    before = contents(here)
    cli("report", "result").refused(1, "report.json")
    assert contents(here) == before


def test_methods(cli: Command) -> None:
    document = cli("methods", "--json").done().document
    assert set(document["methods"]) == set(METHODS)
    assert document["criteria"] == list(CRITERIA)
    shown = cli("methods").done().out
    assert all(name in shown for name in (*METHODS, *CRITERIA))


def test_doctor(cli: Command) -> None:
    findings = cli("doctor", "--json").done().document["findings"]
    assert "proven by a run" in findings["ONNX Runtime on the CPU"]
    assert torch.__version__ in findings["torch"]
    shown = cli("doctor").done().out
    assert all(name in shown for name in findings)


def test_nothing_phones_home(here: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    elsewhere = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    in_own_process(here, "export", "structprune:mlp", env=elsewhere).done()
    assert contents(home) == {}
