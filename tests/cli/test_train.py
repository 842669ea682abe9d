"""``structprune train``: a method from the shell to a result folder, and back after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import structprune
from structprune.training import checkpoint as files
from structprune.training import sealed_file
from structprune.training.methods import METHODS
from tests.cli.command import Command, Finished, contents, environment
from tests.cli.networks import save_images

QUICK = ("--no-export", "--no-measure")
FILES = {"model.safetensors", "plan.json", "report.json", "report.md"}


@pytest.fixture
def images(here: Path) -> Path:
    return save_images(here / "images.npz", (8, 8, 3), each=40, classes=4)


@pytest.fixture
def small(images: Path) -> tuple[object, ...]:
    """The options of a training that takes a second."""
    return ("train", "--task", images, "--arch", "structprune:cifar_resnet20", "-b", 16, *QUICK)


@pytest.fixture
def tiny(images: Path) -> tuple[object, ...]:
    """The options of a training of a network of 20 nodes."""
    network = ("--arch", "tiny:network", "--input-size", 3, 8, 8)
    return ("train", "--task", images, *network, "-b", 16, *QUICK)


def test_a_method_on_channels(small: tuple[object, ...], cli: Command, here: Path) -> None:
    document = cli(*small, "--method", "snap", "--nodes", 0.3, "--epochs", 2, "--json").done().document
    assert document["nodes"]["removed"] == pytest.approx(0.3, abs=0.002)
    assert document["method"] == "snap"
    training = document["training"]
    assert [epoch["number"] for epoch in training["log"]] == [1, 2]
    assert [event["what"] for event in training["events"]] == ["cut"]
    assert 0 <= training["test"] <= 1
    assert training["test_images"] == 32
    assert {proof["name"]: proof["passed"] for proof in document["proofs"]} == {
        "closed_gates": True,
        "reloaded": True,
        "signature": True,
    }
    folder = here / "cifar_resnet20-snap-nodes0.3"
    assert {path.name for path in folder.iterdir()} == FILES
    assert not list(here.glob("*.training.pt"))
    assert sum(p.numel() for p in structprune.load(folder).parameters()) == document["parameters"]["after"]


def test_a_method_on_weights(small: tuple[object, ...], cli: Command, here: Path) -> None:
    document = cli(*small, "--method", "snip", "--weights", 0.8, "--epochs", 1, "--json").done().document
    entries = document["weights"]["before"]
    assert document["weights"]["after"] == round(0.2 * entries)
    assert document["nodes"]["removed"] == 0
    assert document["training"]["masked"]
    assert any("not faster" in note for note in document["notes"])
    stored = load_file(here / "cifar_resnet20-snip-weights0.8" / "model.safetensors")
    weights = [x for x in stored.values() if x.dim() > 1]
    assert sum(int((w != 0).sum()) for w in weights) <= document["weights"]["after"]


def test_what_it_says(small: tuple[object, ...], cli: Command, here: Path) -> None:
    done = cli(*small, "--method", "earlycrop-s", "--nodes", 0.3, "--epochs", 3).done()
    for words in ("test accuracy, last epoch", "best validation", "detector", "what it saw", "cut", "Proofs"):
        assert words in done.out
    assert "epoch 3 of 3, loss" in done.err
    assert "left" in done.err
    report = (here / "cifar_resnet20-earlycrop-s-nodes0.3" / "report.md").read_text(encoding="utf-8")
    assert "## Epochs" in report
    assert "Method earlycrop-s" in report
    assert cli("report", here / "cifar_resnet20-earlycrop-s-nodes0.3").done().out


def test_into_a_folder_of_a_folder_that_is_not_there(
    tiny: tuple[object, ...], cli: Command, here: Path
) -> None:
    cli(*tiny, "--method", "random-s", "--nodes", 0.3, "--epochs", 1, "-o", "runs/first").done()
    assert {path.name for path in (here / "runs" / "first").iterdir()} == FILES
    assert [path.name for path in (here / "runs").iterdir()] == ["first"]


def test_mirrored_images_are_said_to_be(tiny: tuple[object, ...], cli: Command) -> None:
    told = {}
    for option in ("--mirror", "--no-mirror"):
        run = (*tiny, "--method", "dense", "--epochs", 1, option, "-o", option.strip("-"), "--json")
        document = cli(*run).done().document
        told[option] = any("mirrored at random" in note for note in document["notes"])
    assert told == {"--mirror": True, "--no-mirror": False}


def test_a_single_class_teaches_nothing(here: Path, cli: Command) -> None:
    path = save_images(here / "one.npz", (8, 8, 3), each=40, classes=1)
    refused = cli("train", "--task", path, "--arch", "structprune:mlp", "--method", "dense")
    refused.refused(1, "a single class")


def test_a_training_that_is_interrupted_says_how_to_go_on(tiny: tuple[object, ...], here: Path) -> None:
    command = [sys.executable, "-m", "structprune", *map(str, tiny)]
    command += ["--method", "dense", "--epochs", "1000", "-o", "long"]
    with subprocess.Popen(
        command, cwd=here, env=environment(), stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:  # fmt: skip
        try:
            assert child.stderr is not None
            next(line for line in child.stderr if "epoch 2 of 1000" in line)
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 130
    assert "interrupted; long.training.pt holds what was trained; the same with --resume goes on" in err
    assert (here / "long.training.pt").exists()
    assert not (here / "long").exists()


def test_the_same_seed_gives_the_same_network(tiny: tuple[object, ...], cli: Command, here: Path) -> None:
    run = (*tiny, "--method", "crop-s", "--nodes", 0.3, "--epochs", 1)
    for name in ("one", "two"):
        cli(*run, "-o", name).done()
    assert (here / "one/model.safetensors").read_bytes() == (here / "two/model.safetensors").read_bytes()


def test_a_training_that_was_killed_goes_on(tiny: tuple[object, ...], cli: Command, here: Path) -> None:
    """``kill -9`` after the first checkpoint, then --resume: bit for bit the weights of a whole run."""
    run = [*map(str, tiny), "--method", "earlycrop-s", "--nodes", "0.3", "--epochs", "4"]
    command = [sys.executable, "-m", "structprune", *run]
    cli(*run, "-o", "whole").done()
    with subprocess.Popen(
        [*command, "-o", "cut off"], cwd=here, env=environment(), stderr=subprocess.PIPE
    ) as child:
        deadline = time.monotonic() + 120
        while not (here / "cut off.training.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not (here / "cut off").exists()
    cli(*run, "-o", "cut off").refused(2, "--resume goes on")
    other = cli(*run, "-o", "cut off", "--resume", "--seed", 4)
    other.refused(2, "cut off.training.pt is of another training: its seed was 0, now 4")
    resumed = _run([*command, "-o", "cut off", "--resume"], here)
    assert resumed.code == 0, resumed.err
    assert "going on after epoch" in resumed.err
    whole, again = (here / name / "model.safetensors" for name in ("whole", "cut off"))
    assert whole.read_bytes() == again.read_bytes()
    assert not list(here.glob("*.training.pt"))


OWN = """
from torch import nn

def network(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )
"""


@pytest.fixture
def interrupted(images: Path, cli: Command, here: Path) -> Iterator[tuple[object, ...]]:
    """A training of a network of one's own, stopped after its first epoch; the options that it had."""
    (here / "own.py").write_text(OWN)
    save, network = files.save, ("--arch", "own:network", "--input-size", 3, 8, 8, "-o", "out")
    method = ("--method", "crop-s", "--nodes", 0.3, "--epochs", 2, "-b", 16)
    run = ("train", "--task", images, *network, *method, *QUICK)

    def save_and_stop(*args: Any) -> None:
        save(*args)
        signal.raise_signal(signal.SIGINT)

    # A process in the background may have been told to ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "save", save_and_stop)
        assert cli(*run).code == 130
    signal.signal(signal.SIGINT, before)
    assert (here / "out.training.pt").exists()
    yield run
    sys.modules.pop("own", None)


def test_what_differs_on_resume_is_refused(
    interrupted: tuple[object, ...], images: Path, cli: Command, here: Path
) -> None:
    run, checkpoint = (*interrupted, "--resume"), here / "out.training.pt"
    content, arrays = checkpoint.read_bytes(), dict(np.load(images))
    cli(*run, "--no-mirror").refused(2, "out.training.pt", "mirrored", "True", "False")
    cli(*run, "--lr", 0.2).refused(2, "out.training.pt", "recipe, lr")
    (here / "own.py").write_text(OWN.replace("nn.ReLU", "nn.Tanh", 1))
    sys.modules.pop("own")
    cli(*run).refused(2, "out.training.pt", "network, 2", "ReLU", "Tanh")
    (here / "own.py").write_text(OWN)
    sys.modules.pop("own")
    changed = arrays["images"].copy()
    changed[:, 7, 7] ^= 1
    np.savez(images, images=changed, labels=arrays["labels"])
    cli(*run).refused(2, "out.training.pt", "training images, checksum")
    np.savez(images, images=arrays["images"], labels=arrays["labels"])
    checkpoint.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    cli(*run).refused(1, "out.training.pt", "damaged")
    checkpoint.write_bytes(content)
    document = sealed_file.read(checkpoint)
    document["proofs"][0]["passed"] = False
    sealed_file.write(checkpoint, document)
    cli(*run).refused(4, "out.training.pt", "closed_gates")
    checkpoint.write_bytes(content)
    assert "going on after epoch 1" in cli(*run).done().err
    assert not checkpoint.exists()


@pytest.mark.parametrize("options", [(), ("--force",), ("--resume",), ("--force", "--resume")], ids=str)
def test_a_file_of_ones_own_with_a_checkpoints_name_stays(
    options: tuple[str, ...], small: tuple[object, ...], cli: Command, here: Path
) -> None:
    for name in ("out.training.pt", "out.training.draft"):
        (here / name).write_text("my own notes")
    before = contents(here)
    run = (*small, "--method", "dense", "--epochs", 1, "-o", "out", *options)
    cli(*run).refused(1, "out.training.pt")
    assert contents(here) == before


def test_two_processes_of_torchrun(tiny: tuple[object, ...], here: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    run = [*map(str, tiny), "--method", "crop-s", "--nodes", "0.3", "--epochs", "1", "-o", "dealt", "--json"]
    # The launcher leaves folders among temporary files.
    done = _run([*torchrun, "-m", "structprune", *run], here, TMPDIR=str(tmp_path))
    assert done.code == 0, done.err
    assert done.document["nodes"]["removed"] == pytest.approx(0.3, abs=0.002)
    assert {path.name for path in (here / "dealt").iterdir()} == FILES


def _run(command: list[str], here: Path, **variables: str) -> Finished:
    env = {**environment(), **variables}
    done = subprocess.run(
        command, cwd=here, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--method", "snap", "--weights", 0.5), 2, ("--weights 0.5", "removes nodes", "--nodes 0.5")),
        (("--method", "snip", "--nodes", 0.5), 2, ("removes weights", "--weights 0.5")),
        (
            (
                "--method",
                "snip",
            ),
            2,
            ("--weights 0.9",),
        ),
        (("--method", "snip", "--weights", 0.5, "--sparsity", 0.5), 2, ("once",)),
        (("--method", "dense", "--nodes", 0.5), 2, ("removes nothing",)),
        (("--method", "snpi", "--weights", 0.5), 2, ("unknown method 'snpi'", "earlycrop-s")),
        (("--method", "snap", "--nodes", "abc"), 2, ("--nodes abc",)),
        (("--method", "snap", "--nodes", 0.3, "--epochs", 0), 2, ("--epochs 0",)),
        (("--method", "snap", "--nodes", 0.3, "--recipe", "magic"), 2, ("unknown recipe", "earlycrop")),
        (("--method", "snap", "--nodes", 0.3, "--precision", "float8"), 2, ("float32 or bfloat16",)),
        (("--method", "snap", "--nodes", 0.9), 3, ("allows 0 to",)),
        (
            ("--method", "earlycrop-s", "--nodes", 0.3, "--epochs", 3, "--latest", 3),
            2,
            ("expected at most 2",),
        ),
        (("--method", "snap", "--nodes", 0.3, "--lr", 1e30, "--epochs", 2), 1, ("learning rate",)),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    options: tuple[object, ...],
    code: int,
    words: tuple[str, ...],
    small: tuple[object, ...],
    cli: Command,
    here: Path,
) -> None:
    before = contents(here)
    cli(*small, *options).refused(code, *words)
    assert contents(here) == before


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (("cifar10",), ("--task cifar10", "--root")),
        (("tiny-imagenet", "--root", "."), ("train and val",)),
        (("nowhere.npz",), ("nowhere.npz is not there",)),
    ],
)
def test_a_task_that_is_not_there(
    task: tuple[str, ...], words: tuple[str, ...], cli: Command, here: Path
) -> None:
    done = cli("train", "--task", *task, "--method", "snap", "--nodes", 0.3, *QUICK)
    assert done.code in (1, 2)
    assert all(word in done.err for word in words), done.err


def test_images_that_are_to_judge_must_not_train(images: Path, cli: Command, here: Path) -> None:
    run = ("train", "--task", images, "--test-data", images, "--method", "dense", *QUICK)
    cli(*run).refused(2, "the same images")


def test_held_out_test_images_are_said_to_be(small: tuple[object, ...], cli: Command) -> None:
    document = cli(*small, "--method", "dense", "--epochs", 1, "--json").done().document
    assert document["training"]["test_how"] == "32 of its images, held out before anything else"
    assert (document["draws"], document["samples"], document["data"]) == (None, 0, "no inputs")
    assert "peak rate 0.05, batches of 16, float32" in document["training"]["recipe"]


def test_a_network_of_nothing_but_outputs_has_no_nodes(images: Path, cli: Command, here: Path) -> None:
    (here / "lone.py").write_text(
        "from torch import nn\ndef network():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 10))\n"
    )
    run = ("train", "--task", images, "--arch", "lone:network", "--method", "dense", "--epochs", 1)
    document = cli(*run, "--input-size", 3, 8, 8, "--no-measure", "--json").done().document
    assert document["nodes"] == {"before": 0, "after": 0, "removed": 0.0, "asked": 0.0}
    assert document["protected"] == [{"layer": "1", "reason": "it produces the network's outputs"}]


@pytest.mark.parametrize("folder", [".", "/"])
def test_a_folder_that_can_be_no_result(folder: str, small: tuple[object, ...], cli: Command) -> None:
    cli(*small, "--method", "dense", "-o", folder, "--force").refused(1, "folder")


def test_the_methods_are_listed_with_all_that_belongs_to_them(cli: Command) -> None:
    listed = cli("methods", "--json").done().document["methods"]
    assert set(listed) == set(METHODS)
    for row in listed.values():
        assert {"paper", "gates", "score", "schedule", "needs"} <= set(row)
    shown = cli("methods").done().out
    assert all(name in shown for name in METHODS)


def test_an_existing_folder_is_refused(tiny: tuple[object, ...], cli: Command, here: Path) -> None:
    run = (*tiny, "--method", "random-s", "--nodes", 0.3, "--epochs", 1, "-o", "result")
    cli(*run).done()
    cli(*run).refused(1, "result")
    cli(*run, "--force").done()
    assert json.loads((here / "result" / "report.json").read_text())["method"] == "random-s"
