"""The trained CIFAR-10 ResNet-20 whose residual stream can't be cut, read from its file alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Command, contents
from tests.cli.networks import QUICK


@pytest.fixture
def weights(shared_data: Path) -> Path:
    return shared_data / "cifar10_resnet20.safetensors"


def test_a_cut_with_data(weights: Path, shared_data: Path, cli: Command, here: Path) -> None:
    data = ("--data", shared_data / "cifar10_mini.npz", "--samples", 64, "--finetune", 1)
    run = ("compress", weights, "--nodes", 0.3, *data, "--score", "crop", "--no-export", "--no-measure")
    document = cli(*run, "--json").done().document
    assert document["nodes"]["before"] == 688
    assert document["nodes"]["removed"] == pytest.approx(0.3, abs=0.002)
    assert (document["trained"], document["model"]) == (True, "cifar10_resnet20")
    accuracy = document["accuracy"]
    assert accuracy["before"] > 0.85  # 0.917 on all images
    assert accuracy["cut"] < accuracy["before"]
    assert 0 < accuracy["finetuned"] <= 1
    assert "conv1" in {row["layer"] for row in document["protected"]}
    assert (here / "cifar10_resnet20-nodes0.3" / "plan.json").is_file()


def test_a_target_out_of_reach(weights: Path, cli: Command, here: Path) -> None:
    before = contents(here)
    cli("compress", weights, "--nodes", 0.89, *QUICK).refused(3, "0.89", "0 to 0.470", "324 of 688")
    assert contents(here) == before


def test_what_can_go(weights: Path, cli: Command) -> None:
    document = cli("inspect", weights, "--json").done().document
    assert document["nodes"] == 688
    assert document["reachable"] == [0, pytest.approx(315 / 688, abs=0.02)]
    assert len(document["groups"]) == 9
    assert sum(group["size"] for group in document["groups"]) == 336
