"""``structprune compress`` from end to end, on networks that take seconds."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import structprune
from structprune import training
from structprune.cli.runs import network as inputs
from structprune.data import Batches
from structprune.limits import iterative as choosing
from structprune.limits import within as limited
from structprune.pruning import surgery
from structprune.report.data import Report
from structprune.workflows import compress as pipeline
from tests.cli.command import Command, contents, in_own_process
from tests.cli.networks import QUICK, save_images

HALF = ("compress", "structprune:mlp", "--nodes", 0.5)


def test_one_json_document_which_is_the_report(cli: Command, here: Path) -> None:
    finished = cli(*HALF, "--no-measure", "--json", "--quiet").done()
    document = finished.document
    assert finished.err == ""
    assert {field.name for field in fields(Report)} == set(document)
    assert document == json.loads((here / "mlp-nodes0.5" / "report.json").read_text())
    assert set(contents(here / "mlp-nodes0.5")) == {
        "model.onnx",
        "model.safetensors",
        "plan.json",
        "report.json",
        "report.md",
    }
    assert [proof["name"] for proof in document["proofs"]] == [
        "closed_gates",
        "reloaded",
        "onnx",
        "signature",
    ]
    assert all(proof["passed"] and proof["error"] <= 1e-4 for proof in document["proofs"])
    assert document["nodes"] == {"before": 256, "after": 128, "removed": 0.5, "asked": 0.5}
    assert document["weights"]["removed"] > 0.3
    assert {"layer": "5", "reason": "it produces the network's outputs"} in document["protected"]
    assert (document["samples"], document["draws"], document["seed"]) == (64, 8, 0)
    assert (document["trained"], document["accuracy"], document["measurements"]) == (False, None, [])
    network = structprune.load(here / "mlp-nodes0.5")
    widths = {
        name: layer.out_features for name, layer in network.named_modules() if isinstance(layer, nn.Linear)
    }
    assert {layer: after for layer, (_, after) in document["widths"].items()} == widths


def test_quiet_and_json_in_a_process_of_its_own(here: Path) -> None:
    finished = in_own_process(here, *HALF, "--no-measure", "--quiet", "--json").done()
    assert finished.err == ""
    assert finished.document["nodes"]["after"] == 128


def test_what_it_says_and_shows(cli: Command) -> None:
    finished = cli(*HALF, *QUICK).done()
    assert finished.err.splitlines() == [
        "- reading structprune:mlp",
        "- finding coupled channels",
        "- scoring",
        "- cutting",
        "- proving the cut",
        "- writing and reading back",
    ]
    for words in ("closed_gates", "reloaded", "signature", "node sparsity", "50.0 %", "no --data given"):
        assert words in finished.out
    assert finished.out.endswith(
        "Written to mlp-nodes0.5: model.safetensors, plan.json, report.json, report.md\n"
    )


def test_the_same_seed_gives_the_same_bits(cli: Command, here: Path) -> None:
    for folder, seed in (("first", 3), ("second", 3), ("other", 4)):
        cli(*HALF, "--no-export", "--no-measure", "--seed", seed, "-o", folder).done()
    first, second, other = (contents(here / folder) for folder in ("first", "second", "other"))
    assert first["model.safetensors"] == second["model.safetensors"] != other["model.safetensors"]
    # The plan has the checksums of all files, and those of reports tell how long it took.
    plans = [json.loads((here / folder / "plan.json").read_text()) for folder in ("first", "second", "other")]
    reports = [plan["files"].pop(name) for plan in plans for name in ("report.json", "report.md")]
    assert len(reports) == 6
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize("nodes", [0.5, 0.75])
def test_aligned_widths(nodes: float, cli: Command) -> None:
    document = (
        cli("compress", "structprune:mlp", "--nodes", nodes, "--align", 16, *QUICK, "--json").done().document
    )
    hidden = [after for layer, (_, after) in document["widths"].items() if layer != "5"]
    assert [width % 16 for width in hidden] == [0, 0]
    assert sum(hidden) == 256 * (1 - nodes)


def test_steps(cli: Command) -> None:
    finished = cli(*HALF, *QUICK, "--steps", 3, "--json").done()
    assert finished.document["nodes"]["after"] == 128
    assert [line for line in finished.err.splitlines() if "step" in line] == [
        f"- scoring, step {step} of 3" for step in (1, 2, 3)
    ]


def test_a_factory_of_the_users_own(cli: Command, here: Path) -> None:
    options = ("--input-size", 3, 8, 8, "--no-measure", "--json")
    document = cli("compress", "tiny:network", "--nodes", 0.4, *options).done().document
    assert document["nodes"] == {"before": 20, "after": 12, "removed": pytest.approx(0.4), "asked": 0.4}
    assert all(proof["passed"] for proof in document["proofs"])
    assert (here / "network-nodes0.4" / "model.onnx").is_file()
    assert str(here) not in (here / "network-nodes0.4" / "report.json").read_text()


def test_measuring(cli: Command, here: Path) -> None:
    options = ("--score", "magnitude", "--energy-seconds", 0.2, "--measure-batch", 2, "--no-export", "--json")
    document = cli(*HALF, *options).done().document
    rows = {(row["name"], row["runtime"]) for row in document["measurements"]}
    assert {("batch_time", "torch"), ("batch_time", "onnxruntime"), ("disk", "none")} <= rows
    assert {row["batch"] for row in document["measurements"] if row["name"] == "batch_time"} == {2}
    assert {"memory", "flops", "energy", "emissions"} <= {name for name, _ in rows}
    assert not (here / "mlp-nodes0.5" / "model.onnx").exists()
    flops = next(row for row in document["measurements"] if row["name"] == "flops")
    assert flops["dense"]["median"] * 1e9 == pytest.approx(document["flops"]["before"])


def _numbers(images_NCHW: Tensor) -> set[int]:
    """The numbers that ``save_images`` wrote into the images."""
    first_N, second_N = (images_NCHW[:, 0, 0, :2] * 255).round().long().unbind(1)
    return set((first_N * 250 + second_N).tolist())


def _numbers_of(batches: Batches) -> set[int]:
    return set().union(*(_numbers(images) for images, _ in batches))


def test_images_that_are_held_out_neither_score_nor_train(
    cli: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[set[int]] = []
    trained: list[set[int]] = []
    judged: list[set[int]] = []

    def choose(model: Any, groups: Any, samples: Any, *rest: Any) -> Any:
        scored.extend(_numbers(batch.inputs[0]) for batch in samples.batches)
        return choosing.choose(model, groups, samples, *rest)

    def finetune(model: Any, batches: Batches, *rest: Any, **options: Any) -> Any:
        trained.append(_numbers_of(batches))
        return training.finetune(model, batches, *rest, **options)

    def evaluate(model: Any, batches: Batches) -> float:
        judged.append(_numbers_of(batches))
        return training.evaluate(model, batches)

    monkeypatch.setattr(limited, "choose", choose)
    monkeypatch.setattr(inputs, "finetune", finetune)
    monkeypatch.setattr(inputs, "evaluate", evaluate)
    save_images(here / "data.npz", (28, 28, 1))
    options = ("--data", "data.npz", "--mean", 0, 0, 0, "--std", 1, 1, 1, "--finetune", 1)
    document = cli(*HALF, *QUICK, *options, "--json").done().document

    everything = set(range(400))
    held_out = everything - trained[0]
    assert len(trained) == 1
    assert len(held_out) == 80
    assert judged == [held_out] * 3
    assert set().union(*scored) < trained[0]
    assert document["samples"] == sum(map(len, scored)) == 256
    accuracy = document["accuracy"]
    assert accuracy["images"] == 80
    assert all(0 <= accuracy[stage] <= 1 for stage in ("before", "cut", "finetuned"))
    assert any("80 of the images" in note for note in document["notes"])


def test_test_data_leave_all_of_the_data_to_learn_from(cli: Command, here: Path) -> None:
    save_images(here / "data.npz", (28, 28, 1))
    save_images(here / "test.npz", (28, 28, 1), each=3)
    finished = cli(*HALF, *QUICK, "--data", "data.npz", "--test-data", "test.npz", "--samples", 400).done()
    assert "Accuracy on 30 images (" in finished.out
    assert "before " in finished.out
    assert "fine-tuned" not in finished.out
    report = json.loads((here / "mlp-nodes0.5" / "report.json").read_text())
    assert (report["samples"], report["accuracy"]["finetuned"]) == (400, None)


def test_images_of_another_size_are_said_to_be_resized(cli: Command, here: Path) -> None:
    save_images(here / "data.npz", (28, 28, 1))
    save_images(here / "test.npz", (14, 20, 1), each=3)
    options = ("--data", "data.npz", "--test-data", "test.npz", "--json")
    notes = cli(*HALF, *QUICK, *options).done().document["notes"]
    assert [note for note in notes if "resized" in note] == ["test: images of 14 x 20 are resized to 28 x 28"]


def _exchange(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight[[0, 1]] = layer.weight[[1, 0]]


def _drop(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight[0] = 0


@pytest.mark.parametrize("fault", [_exchange, _drop])
def test_a_cut_that_is_not_what_was_meant(
    fault: Any, cli: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shrink(*arguments: Any) -> nn.Module:
        small = surgery.shrink(*arguments)
        fault(small.get_submodule("1"))
        return small

    monkeypatch.setattr(pipeline, "shrink", shrink)
    before = contents(here)
    cli(*HALF, "--no-measure").refused(4, "closed_gates", "failed")
    assert contents(here) == before


def test_an_export_that_is_not_what_was_meant(
    cli: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_onnx(self: Any, model: nn.Module, example: tuple[Tensor, ...], path: Path) -> Any:
        fault = next(layer for layer in model.modules() if isinstance(layer, nn.Linear))
        with torch.no_grad():
            kept = fault.weight.clone()
            fault.weight[0] += 1
            written = real(self, model, example, path)
            fault.weight.copy_(kept)
        return written

    from exporters.toolbox import Toolbox

    real = Toolbox.export
    monkeypatch.setattr(Toolbox, "export", to_onnx)
    before = contents(here)
    cli(*HALF, "--no-measure").refused(4, "onnx", "failed")
    (here / "older.onnx").write_text("kept")
    before = contents(here)
    cli("export", "structprune:mlp", "-o", "older.onnx", "--force").refused(4, "onnx", "failed")
    assert contents(here) == before
