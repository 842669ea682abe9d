"""Two processes of a torchrun against one: the same scores, the same channels, one network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from structprune.distributed import SINGLE_PROCESS, ProcessGroup
from tests.cli.command import environment
from tests.trainer.dealt import found

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("dealt")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*torchrun, "-m", "tests.trainer.dealt", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return found(SINGLE_PROCESS)


def test_dealing_gives_every_item_to_one_process() -> None:
    items = list(range(7))
    assert (
        sorted(
            [
                *ProcessGroup(0, 3).deal(items),
                *ProcessGroup(1, 3).deal(items),
                *ProcessGroup(2, 3).deal(items),
            ]
        )
        == items
    )
    assert list(SINGLE_PROCESS.deal(items)) == items


def test_alone_nothing_is_wrapped_or_summed() -> None:
    layer, x = nn.Linear(2, 2), {"x": torch.ones(2)}
    assert SINGLE_PROCESS.wrapped(layer) is layer
    assert torch.equal(SINGLE_PROCESS.total(x)["x"], x["x"])
    assert SINGLE_PROCESS.mean(0.3) == 0.3


def test_scores_agree(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    assert [row["size"] for row in two] == [2, 2]
    for case, alone in one["scores"].items():
        largest = max(float(values.abs().max()) for values in alone.values())
        for row in two:
            for name, values in alone.items():
                apart = float((row["scores"][case][name] - values).abs().max())
                assert apart <= 1e-5 * largest, (case, name)


def test_every_process_has_the_same_plan_and_the_same_network(two: list[dict[str, Any]]) -> None:
    first, second = two
    assert all(torch.equal(first["keep"][name], second["keep"][name]) for name in first["keep"])
    assert all(torch.equal(x, second["state"][name]) for name, x in first["state"].items())
    assert first["cut after"] > 0  # so that running statistics had a say in it
    assert first["loss"] == second["loss"]


def test_the_loss_is_close_to_that_of_one_process(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    """Batch norm sees half of every batch in each process, so not the same."""
    assert two[0]["loss"][0] == pytest.approx(one["loss"][0], rel=0.2)
