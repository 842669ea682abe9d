"""``--correct`` and ``--distill``: a network trained on digits, cut, mended, taught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from structprune.cli.runs import network as inputs
from structprune.data import read_images, to_batches
from structprune.report.serialise import from_json
from structprune.training import Recipe, finetune
from tests.cli.command import Command
from tests.cli.networks import QUICK, save_images

LEARNER = """
from torch import nn


def network():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 10),
    )
"""
GREY = ("--mean", 0.5, 0.5, 0.5, "--std", 0.5, 0.5, 0.5)
CUT = ("compress", "learner.pt", "--arch", "learner:network", "--input-size", 3, 8, 8, "--nodes", 0.5, *QUICK)
DIGITS = (*CUT, "--data", "digits", *GREY)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """A state dict of the network below, trained for some seconds."""
    scope: dict[str, Any] = {}
    exec(LEARNER, scope)
    torch.manual_seed(0)
    model = scope["network"]()
    images = read_images("digits", split="train")
    batches = to_batches(images, size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, batch_size=64)
    finetune(model, batches, 6, recipe=Recipe(lr=0.1))
    found: dict[str, torch.Tensor] = model.state_dict()
    return found


@pytest.fixture
def learner(here: Path, weights: dict[str, torch.Tensor]) -> Iterator[Path]:
    import sys

    (here / "learner.py").write_text(LEARNER)
    torch.save(weights, here / "learner.pt")
    yield here
    sys.modules.pop("learner", None)


def test_a_trained_network_with_data_is_mended_by_default(learner: Path, cli: Command) -> None:
    ran = cli(*DIGITS, "-o", "out").done()
    report = from_json((learner / "out" / "report.json").read_text())
    accuracy = report.accuracy
    assert accuracy is not None
    assert accuracy.before > 0.85
    assert accuracy.mended is not None
    assert accuracy.finetuned is None
    assert accuracy.mended > accuracy.cut + 0.1
    assert [proof.name for proof in report.proofs] == ["closed_gates", "reloaded", "signature"]
    assert all(proof.passed for proof in report.proofs)
    assert "mend" in report.seconds
    line = next(line for line in ran.out.replace("\n", " ").split("Accuracy") if "mended" in line)
    before, cut, mended = (f"{100 * x:.1f} %" for x in (accuracy.before, accuracy.cut, accuracy.mended))
    assert f"before {before}, after the cut {cut}, mended {mended}." in " ".join(line.split())
    assert f"| mended | {mended} |" in (learner / "out" / "report.md").read_text()


def test_none_leaves_every_number_as_the_dense_network_has_it(
    learner: Path, cli: Command, weights: dict[str, torch.Tensor]
) -> None:
    document = cli(*DIGITS, "--correct", "none", "-o", "out", "--json").done().document
    assert document["accuracy"]["mended"] is None
    assert not any("mended" in note for note in document["notes"])
    found = load_file(learner / "out" / "model.safetensors")
    kept = [own_row(row, weights["0.weight"]) for row in found["0.weight"]]
    also = [own_row(row, weights["3.weight"][:, kept]) for row in found["3.weight"]]
    flat = [4 * channel + place for channel in also for place in range(4)]
    expected = {
        "0.weight": weights["0.weight"][kept],
        **{
            f"1.{key}": weights[f"1.{key}"][kept] for key in ("weight", "bias", "running_mean", "running_var")
        },
        "3.weight": weights["3.weight"][also][:, kept],
        "3.bias": weights["3.bias"][also],
        "7.weight": weights["7.weight"][:, flat],
        "7.bias": weights["7.bias"],
    }
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def own_row(row: torch.Tensor, rows: torch.Tensor) -> int:
    return next(i for i, other in enumerate(rows) if torch.equal(row, other))


def test_steps_are_mended_in_between(learner: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from structprune.limits import iterative
    from structprune.workflows import compress as pipeline

    kept: list[int] = []
    whole = pipeline.reconstruct  # type: ignore[attr-defined]

    def noted(*given: Any) -> Any:
        kept.append(sum(int(keep.sum()) for keep in given[3].keep.values()))
        return whole(*given)

    for place in (iterative, pipeline):
        monkeypatch.setattr(place, "reconstruct", noted)
    document = cli(*DIGITS, "--steps", 3, "-o", "out", "--json").done().document
    assert len(kept) == 3  # between the steps twice, and once at the end
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == document["nodes"]["after"]
    assert document["accuracy"]["mended"] > document["accuracy"]["cut"]


def test_an_untrained_network_is_mended_where_that_is_asked(learner: Path, cli: Command) -> None:
    asked = ("--untrained", "--correct", "batch-norm", "--steps", 2, "-o", "out", "--json")
    document = cli(*DIGITS, *asked).done().document
    (note,) = (note for note in document["notes"] if "mended" in note)
    assert note.startswith(
        "mended by batch-norm, 1 layers" if document["accuracy"]["mended"] else "not mended"
    )


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whoever taught while something was fine-tuned, in its order."""
    noted: list[Any] = []
    whole = inputs.finetune  # type: ignore[attr-defined]

    def finetuned(model: Any, *given: Any, **options: Any) -> None:
        noted.append(options["teacher"])
        whole(model, *given, **options)

    monkeypatch.setattr(inputs, "finetune", finetuned)
    return noted


TUNED = (*DIGITS, "--finetune", 1, "-o", "out", "--json")


def about_teacher(document: Any) -> list[str]:
    """The notes of a report that are about the dense network as a teacher."""
    return [note for note in document["notes"] if "dense network" in note and "distill" in note]


def test_a_trained_network_teaches_its_cut_copy(learner: Path, cli: Command, teachers: list[Any]) -> None:
    document = cli(*TUNED).done().document
    (teacher,) = teachers
    assert teacher[0].out_channels == 16
    assert document["accuracy"]["finetuned"] > document["accuracy"]["cut"]
    (note,) = about_teacher(document)
    assert note.startswith("the dense network teaches while fine-tuning: it is right on 9")
    assert note.endswith("% of the scoring images; --no-distill says otherwise")


def test_labels_alone_teach_where_that_is_asked(learner: Path, cli: Command, teachers: list[Any]) -> None:
    document = cli(*TUNED, "--no-distill").done().document
    assert (teachers, about_teacher(document)) == ([None], [])


def test_an_untrained_network_teaches_only_where_that_is_asked(
    learner: Path, cli: Command, teachers: list[Any]
) -> None:
    assert about_teacher(cli(*TUNED, "--untrained").done().document) == []
    cli(*TUNED, "--untrained", "--distill", "--force").done()
    assert teachers[0] is None
    assert teachers[1][0].out_channels == 16


def test_a_network_that_is_wrong_on_the_images_does_not_teach(
    learner: Path, cli: Command, teachers: list[Any], weights: dict[str, torch.Tensor]
) -> None:
    others = {name: x.roll(1, 0) if name.startswith("7.") else x for name, x in weights.items()}
    torch.save(others, learner / "learner.pt")
    (note,) = about_teacher(cli(*TUNED).done().document)
    assert note.startswith("the dense network doesn't teach: it is right on ")
    assert teachers == [None]


def test_misuse(learner: Path, cli: Command) -> None:
    cli(*CUT, "--correct", "least-squares").refused(2, "--correct least-squares needs --data")
    cli(*DIGITS, "--correct", "magic").refused(2, "--correct magic", "least-squares, batch-norm or none")
    cli(*DIGITS, "--distill").refused(2, "--distill", "--finetune")
    cli(*DIGITS, "--no-distill").refused(2, "--no-distill", "--finetune")


LIMITED = ("compress", "learner.pt", "--arch", "learner:network", "--input-size", 3, 8, 8, "--params", 0.6)
FEW = (
    "compress",
    "tiny:network",
    "--trained",
    "--nodes",
    0.3,
    "--data",
    "few.npz",
    "--test-data",
    "more.npz",
)


@pytest.mark.parametrize(("correct", "said"), [("least-squares", 1), ("none", 0)])
def test_channels_are_chosen_for_the_correction_within_limits_too(
    learner: Path, cli: Command, correct: str, said: int
) -> None:
    options = ("--data", "digits", *GREY, "--correct", correct, "--no-export", "--no-measure")
    cli(*LIMITED, *options, "-o", "out").done()
    report = from_json((learner / "out" / "report.json").read_text())
    assert [limit.name for limit in report.limits] == ["params"]
    assert sum(note.startswith("scores say how wide groups stay") for note in report.notes) == said


def test_a_handful_of_images_mends_nothing_unless_it_was_asked_for(here: Path, cli: Command) -> None:
    save_images(here / "few.npz", (8, 8, 3), each=1, classes=4)
    save_images(here / "more.npz", (8, 8, 3), each=10, classes=4)
    options = ("--input-size", 3, 8, 8, "--mean", 0, 0, 0, "--std", 1, 1, 1, *QUICK)
    document = cli(*FEW, *options, "-o", "out", "--json").done().document
    assert document["accuracy"]["mended"] is None
    cli(*FEW, *options, "-o", "again", "--correct", "least-squares").refused(
        2, "4 inputs are too few to mend"
    )
