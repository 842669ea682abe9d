"""``measure`` with its options, and int8, as a user has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from exporters.to_int8 import OnnxModule
from structprune.cli.runs.measure import names_of
from structprune.report import int8_line
from structprune.report.data import Int8
from tests.cli.command import Command, contents
from tests.cli.networks import save_images
from tests.render.reports import timed

TINY = ("tiny:network", "--input-size", 3, 8, 8)
SHORT = ("--energy-seconds", 0.1, "--measure-batch", 2, "--quiet")


def test_layers_threads_and_onnx_files(result: Path, cli: Command, here: Path) -> None:
    cli("export", "result", "-o", "small.onnx", "--quiet").done()
    before = contents(here)
    swept = ("--threads", 1, "--threads", 2, "--runtime", "onnxruntime")
    document = cli("measure", "structprune:mlp", "result", "small.onnx", "--layers", *swept, *SHORT, "--json")
    dense, small, file = document.done().document["networks"]
    assert contents(here) == before
    timed = [row for row in small["measurements"] if row["name"] == "batch_time"]
    assert [(row["runtime"], row["batch"], row["threads"]) for row in timed] == [
        ("onnxruntime", 2, 1),
        ("onnxruntime", 2, 2),
    ]
    layers = [row["layer"] for row in small["layers"]]
    assert sorted(layers) == sorted(row["layer"] for row in file["layers"])  # in the order of their times
    weighted = [row["layer"] for row in small["layers"] if ":" not in row["layer"] and row["ratio"]]
    assert len(weighted) >= 3
    assert dense["layers"][0]["dense"] == dense["layers"][0]["pruned"]
    assert isinstance(small["not_faster"], str)
    assert any(note.startswith("small.onnx: ONNX files run in ONNX Runtime only") for note in file["notes"])
    assert "flops" not in {row["name"] for row in small["measurements"]}


def test_what_is_measured_is_shown_in_tables_and_words(cli: Command) -> None:
    shown = cli("measure", "tiny:network", *TINY, "--layers", *SHORT).done().out
    for words in (
        "batch time, torch, batch 2, 1 thread [ms]",
        "first run peak",
        "The slowest layers of",
        "no real speed-up",
        "did not get faster and take",
    ):
        assert words in shown, words


def test_the_layers_of_one_network_are_shown_and_compared_with_nothing(cli: Command, here: Path) -> None:
    cli("export", "tiny:network", "--input-size", 3, 8, 8, "-o", "one.onnx").done()
    shown = cli("measure", "one.onnx", "--layers", *SHORT).done().out
    assert "The slowest layers of" in shown
    assert "did not get faster" not in shown
    document = cli("measure", "one.onnx", "--layers", *SHORT, "--json").done().document
    (one,) = document["networks"]
    assert one["not_faster"] == ""
    assert {row["ratio"] for row in one["layers"]} == {None}


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["a/model.onnx", "b/model.onnx", "resnet18"], ["a/model", "b/model", "resnet18"]),
        (["torchvision:resnet18", "timm:resnet18"], ["torchvision:resnet18", "timm:resnet18"]),
        (["a/x/model.onnx", "b/x/model.onnx"], ["a/x/model.onnx", "b/x/model.onnx"]),
        (["resnet18", "resnet18"], ["resnet18", "resnet18"]),
    ],
)
def test_networks_go_by_names_that_tell_them_apart(specs: list[str], names: list[str]) -> None:
    assert names_of(specs) == names


def test_files_alone_are_compared(cli: Command, here: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        cli("export", *TINY, "-o", name, "--quiet").done()
    document = cli("measure", "a.onnx", "b.onnx", *SHORT, "--json").done().document
    names = [row["name"] for row in document["networks"][1]["measurements"]]
    assert names == ["disk", "batch_time", "memory", "energy", "emissions"]
    cli("measure", "a.onnx", "structprune:mlp", *SHORT).refused(2, "(1, 28, 28)", "(3, 8, 8)")
    cli("measure", "none.onnx").refused(1, "no ONNX file 'none.onnx'")


def test_a_file_says_which_size_it_takes(cli: Command, here: Path) -> None:
    save_identity(here / "fixed.onnx", x=(TensorProto.FLOAT, ["n", 3, 8, 8]))
    refused = cli("measure", "fixed.onnx", "--input-size", 3, 16, 16, *SHORT)
    refused.refused(1, "fixed.onnx takes inputs of sizes (3, 8, 8); got (3, 16, 16)")


def test_compress_writes_an_int8_file_beside_the_onnx_file(cli: Command, here: Path) -> None:
    save_images(here / "images.npz", (8, 8, 3), each=20, classes=4)
    options = ("--nodes", 0.3, "--score", "magnitude", "--data", "images.npz", "--no-measure", "-o", "out")
    cli("compress", *TINY, *options, "--quiet").done()
    plain = contents(here / "out")
    shown = cli("compress", *TINY, *options, "--int8", "--force").done()
    whole = contents(here / "out")
    assert whole.keys() - plain.keys() == {"model.int8.onnx"}
    assert whole["model.onnx"] == plain["model.onnx"]
    assert "not timed" in shown.out
    document = cli("report", "out", "--json").done().document
    found = document["int8"]
    assert found["measurements"] == []
    assert found["compared"] == found["calibrated"] >= 16
    assert found["accuracy_before"] == document["accuracy"]["cut"]
    assert 0 <= found["accuracy"] <= 1
    assert found["calibration"].endswith("images of images")
    assert "int8, calibrated on" in (here / "out" / "report.md").read_text()


def test_export_int8_is_calibrated_on_data_and_timed(cli: Command, here: Path) -> None:
    save_images(here / "images.npz", (8, 8, 3), each=20, classes=4)
    options = ("--int8", "--data", "images.npz", "--measure-batch", 2)
    document = cli("export", *TINY, *options, "--json").done().document
    assert (document["file"], document["proof"]["passed"]) == ("network.int8.onnx", True)
    found = document["int8"]
    assert [(row["name"], row["batch"]) for row in found["measurements"]] == [
        ("disk", None),
        ("batch_time", 2),
    ]
    assert found["accuracy"] is not None
    assert OnnxModule(here / "network.int8.onnx")(torch.zeros(5, 3, 8, 8)).shape == (5, 4)
    shown = cli("export", *TINY, "--int8", "--measure-batch", 2, "-o", "random.int8.onnx").done().out
    assert "int8, calibrated on random inputs, which are no substitute for data: " in shown
    assert "proof onnx of the float32 file passed" in shown


def save_identity(path: Path, **inputs: tuple[int, list[int | str]]) -> None:
    """Write a file that gives its inputs back, each of a type and a shape."""
    described = [helper.make_tensor_value_info(name, *each) for name, each in inputs.items()]
    results = [helper.make_tensor_value_info(f"{name}_out", *each) for name, each in inputs.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs]
    graph = helper.make_graph(nodes, "given", described, results)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_file_that_reads_sequences_is_measured_on_given_inputs(cli: Command, here: Path) -> None:
    save_identity(here / "ids.onnx", x=(TensorProto.INT64, ["n", "t"]))
    cli("measure", "ids.onnx", *SHORT).refused(1, "'x' open: (any,)", "--input FILE")
    np.save(here / "ids.npy", np.ones((2, 7), dtype=np.int64))
    (measured,) = (
        cli("measure", "ids.onnx", "--input", "ids.npy", *SHORT, "--json").done().document["networks"]
    )
    assert "batch_time" in {row["name"] for row in measured["measurements"]}


def test_files_of_different_inputs_are_not_compared(cli: Command, here: Path) -> None:
    save_identity(here / "two.onnx", a=(TensorProto.FLOAT, ["n", 8]), b=(TensorProto.FLOAT, ["n", 4]))
    save_identity(here / "one.onnx", a=(TensorProto.FLOAT, ["n", 8]))
    save_identity(here / "ids.onnx", a=(TensorProto.INT64, ["n", 8]))
    cli("measure", "two.onnx", "one.onnx", *SHORT).refused(2, "(8,) and (4,)", "can't be compared")
    cli("measure", "one.onnx", "ids.onnx", *SHORT).refused(2, "(8,), (8,) whole numbers")
    cli("measure", "one.onnx", "--runtime", "torch", *SHORT).refused(
        2, "--runtime torch", "onnxruntime alone"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", *TINY, "--data", "digits"), ("--data calibrates int8", "--int8")),
        (("export", *TINY, "--int8", "--mean", 0, 0, 0), ("--mean needs --data",)),
        (("compress", *TINY, "--nodes", 0.5, "--int8", "--no-export"), ("--int8", "--no-export")),
        (("measure", "tiny:network", "--runtime", "tflite"), ("--runtime tflite", "torch-compile")),
        (("measure", "tiny:network", "--threads", 0), ("--threads 0", "1 or more")),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(
    arguments: tuple[object, ...], words: tuple[str, ...], cli: Command, here: Path
) -> None:
    before = contents(here)
    cli(*arguments).refused(2, *words)
    assert contents(here) == before


def test_a_slower_file_is_called_slower_in_words() -> None:
    slow = replace(timed("onnxruntime", 1, 1.0, 2.0), verdict="2.00x slower (1.90-2.10)")
    found = Int8(0.25, 0.5, 8, 8, (slow,), calibration="8 of 16 images", accuracy_before=0.5, accuracy=0.25)
    assert int8_line(found) == (
        "int8, calibrated on 8 of 16 images: it does not pay everywhere: 2.00x slower (1.90-2.10) at batch "
        "1; accuracy 50.0 % before, 25.0 % after; outputs off by up to 0.25 of their spread."
    )
