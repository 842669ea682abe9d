"""``structprune inspect`` and the options that leave layers out, from the shell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.command import Command


def test_sizes_are_estimated_for_nothing_half_and_all_that_can_go(cli: Command) -> None:
    document = cli("inspect", "structprune:mlp", "--json").done().document
    none, half, most = document["estimates"]
    assert none["nodes"] == 0
    assert none["parameters"] == half["parameters"] + (none["disk"] - half["disk"]) // 4
    assert half["nodes"] == pytest.approx(most["nodes"] / 2, abs=0.01)
    assert most["nodes"] == pytest.approx(document["reachable"][1], abs=0.01)
    for smaller, larger in ((half, none), (most, half)):
        assert smaller["parameters"] < larger["parameters"]
        assert smaller["flops"] < larger["flops"]
        assert smaller["disk"] < larger["disk"]
    assert none["disk"] == 4 * none["parameters"]


def test_the_table_names_what_was_left_out(cli: Command) -> None:
    shown = cli("inspect", "cifar_resnet20", "--skip", "layer3*").done().out
    assert "left out by skip layer3*" in shown
    assert "MB on disk" in shown


def test_layers_that_were_left_out_are_whole_afterwards(cli: Command) -> None:
    command = ["compress", "structprune:mlp", "--nodes", "0.3", "--score", "filter_norm", "--no-measure"]
    command += ["--no-export", "--json", "-o", "out"]
    first, *others = cli("inspect", "structprune:mlp", "--json").done().document["groups"]
    report = cli(*command, "--skip", first["name"]).done().document
    before, after = report["widths"][first["name"]]
    assert before == after
    assert {"layer": first["name"], "reason": f"it was left out by skip {first['name']}"} in report[
        "protected"
    ]
    assert any(report["widths"][g["name"]][1] < g["size"] for g in others)


@pytest.mark.parametrize("option", ["--skip", "--only"])
@pytest.mark.parametrize("verb", [("inspect",), ("compress", "--nodes", "0.3", "--no-measure")])
def test_a_pattern_that_matches_nothing_is_a_mistake(
    cli: Command, verb: tuple[str, ...], option: str
) -> None:
    name, *more = verb
    cli(name, "structprune:mlp", *more, option, "nowhere.*").refused(
        2, f"{option} nowhere.*", "matches no layer"
    )


TWO_INPUTS = """
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.picture = nn.Embedding(20, 8), nn.Linear(5, 8)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, ids, x):
        return {"logits": self.head(self.hidden(self.words(ids).mean(1) + self.picture(x)).relu())}
"""


def test_example_inputs_come_from_a_file(cli: Command, here: Path) -> None:
    (here / "two.py").write_text(TWO_INPUTS)
    rng = np.random.default_rng(0)
    np.savez(here / "two.npz", ids=rng.integers(0, 20, (8, 6)), x=rng.normal(size=(8, 5)))
    command = ["--input", "two.npz", "--json"]
    document = cli("inspect", "two:Two", *command).done().document
    assert {g["name"]: g["size"] for g in document["groups"]} == {"picture": 8, "hidden": 12}
    report = (
        cli("compress", "two:Two", "--nodes", "0.5", "--no-measure", *command, "-o", "out").done().document
    )
    assert report["nodes"]["removed"] == 0.5
    assert all(proof["passed"] for proof in report["proofs"])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((1, 784), np.float32)}, ("(1, 784)", "2 inputs or more")),
        ({"x": np.zeros((4, 784)), "y": np.zeros((3, 2))}, ("(4, 784)", "(3, 2)")),
        ({"x": np.array([{}], dtype=object)}, ("can't be read as inputs",)),
        ({"x": np.zeros((4, 7), np.float32)}, ("can't run on inputs of size (7,)",)),
    ],
)
def test_a_file_that_holds_no_inputs_is_refused(
    cli: Command, here: Path, arrays: dict[str, Any], words: tuple[str, ...]
) -> None:
    np.savez(here / "x.npz", **arrays)
    cli("inspect", "structprune:mlp", "--input", "x.npz").refused(1, *words)


def test_channels_that_are_padded_are_cut_along_where_it_is_asked_for(cli: Command) -> None:
    plain = cli("inspect", "cifar_resnet20", "--json").done().document
    along = cli("inspect", "cifar_resnet20", "--cut-padded", "--json").done().document
    assert plain["reachable"][1] == pytest.approx(324 / 688)
    assert along["reachable"][1] > 0.68
    command = [
        "compress",
        "cifar_resnet20",
        "--nodes",
        "0.6",
        "--score",
        "filter_norm",
        "--no-measure",
        "--json",
    ]
    cli(*command).refused(3, "padded with zeros")
    report = cli(*command, "--cut-padded", "-o", "out").done().document
    assert all(proof["passed"] for proof in report["proofs"])


def test_an_embedding_is_cut_along_where_it_is_asked_for(cli: Command) -> None:
    pytest.importorskip("timm")
    asked = ("--nodes", "0.7", "--score", "filter_norm", "--no-measure")
    command = ("compress", "timm:test_vit", *asked)
    cli(*command).refused(3, "normalised together by a LayerNorm")
    done = cli(*command, "--embedding", "-o", "out").done()
    assert "LayerNorms over the channels that stay" in done.out
    report = cli("report", "out", "--json").done().document
    (closed,) = (proof for proof in report["proofs"] if proof["name"] == "closed_gates")
    assert closed["passed"]
    assert closed["inexact"] > 1e-3
    before, after = report["widths"]["patch_embed.proj"]
    assert after < before
