"""Budgets in the units people pay in, from the shell and from Python, with the real runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import structprune
from exporters.probes import batch_time
from structprune.errors import TargetUnreachableError, UsageError
from tests.cli.command import Command, contents
from tests.cli.networks import QUICK

MLP = ("compress", "structprune:mlp")
SLOW = '''
from torch import nn


def network():
    """Wide enough that ONNX Runtime takes a while, and quick to score."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 4),
    )
'''
"""Of the module ``slow`` in the working folder."""


def counted(document: dict[str, Any], name: str) -> int:
    left: int = document[{"params": "parameters"}.get(name, name)]["after"]
    return left


def test_counted_limits_together(cli: Command, here: Path) -> None:
    options = ("--params", "40%", "--weights", "0.5", "--flops", "60k", "--disk", "400kB")
    document = cli(*MLP, *options, *QUICK, "--json").done().document
    asked = {row["name"]: row for row in document["limits"]}
    assert {name: row["asked"] for name, row in asked.items()} == {
        "weights": "50 % removed",
        "params": "40 % removed",
        "flops": "at most 60k",
        "disk": "at most 400kB",
    }
    for name in ("weights", "params", "flops"):
        assert asked[name]["reached"] == counted(document, name) <= asked[name]["bound"]
    assert asked["disk"]["reached"] <= asked["disk"]["bound"] == 0.4
    assert document["nodes"]["asked"] is None
    folder = here / "mlp-weights0.5-params0.4-flops60k-disk400kB"
    assert json.loads((folder / "report.json").read_text()) == document


def test_the_file_on_the_disk_is_as_small_as_it_was_said_to_be(cli: Command, here: Path) -> None:
    options = ("--disk", "20%", "--score", "magnitude", "--no-measure", "--json", "-o", "small")
    document = cli("compress", "tiny:network", "--input-size", 3, 8, 8, *options).done().document
    (row,) = document["limits"]
    size = (here / "small" / "model.onnx").stat().st_size
    assert size / 1e6 == pytest.approx(row["reached"], rel=1e-3)
    assert row["reached"] <= row["bound"]


def test_a_limit_that_the_dense_network_keeps_cuts_nothing_and_says_so(cli: Command) -> None:
    document = cli(*MLP, "--params", "2M", *QUICK, "--json").done().document
    assert document["nodes"]["removed"] == 0
    assert "the dense network keeps every limit already, and nothing was cut" in document["notes"]


def test_what_is_shown(cli: Command) -> None:
    finished = cli(*MLP, "--nodes", 0.2, "--params", "30k", *QUICK).done()
    for words in ("Asked for", "limit", "reached", "how", "20 % removed", "at most 30k", "counted"):
        assert words in finished.out
    assert "looking for the least cut that keeps every limit" in finished.err
    assert "mlp-nodes0.2-params30k" in finished.out
    shown = cli("report", "mlp-nodes0.2-params30k").done()
    assert "at most 30k" in shown.out


def test_time_and_memory_in_the_real_runtime(
    cli: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_time, "BLOCK_SECONDS", 0.02)  # no time is asserted here
    (here / "slow.py").write_text(SLOW)
    limits = ("--speedup", "1.2", "--latency", "10s", "--memory", "10GB")
    options = ("--input-size", 3, 24, 24, "--align", 8, "--threads", 1, "--measure-batch", 3)
    document = cli("compress", "slow:network", *limits, *options, *QUICK, "--json").done().document
    rows = {row["name"]: row for row in document["limits"]}
    assert {name: (row["asked"], row["unit"]) for name, row in rows.items()} == {
        "memory": ("at most 10GB", "MB"),
        "latency": ("at most 10s", "ms"),
        "speedup": ("1.2x faster", "x"),
    }
    assert rows["speedup"]["reached"] >= 1.2 * 0.98
    assert 0 < rows["latency"]["reached"] <= rows["latency"]["bound"] == 10_000
    assert 0 < rows["memory"]["reached"] <= rows["memory"]["bound"] == 10_000
    for words in ("ONNX Runtime", "CPUExecutionProvider", "1 CPU thread", "batch 3"):
        assert words in rows["latency"]["how"]
    assert "resident set" in rows["memory"]["how"]
    assert document["nodes"]["after"] < document["nodes"]["before"]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--speedup", "100000", ("speedup 100000x", "can be asked for")),
        ("--latency", "1us", ("latency 1us", "or more can be asked for")),
        ("--memory", "1MB", ("memory 1MB", "or more can be asked for")),
        ("--disk", "10B", ("disk 10B", "or more")),
        ("--params", "99.99%", ("params 0.9999", "0 to 0.")),
    ],
)
def test_a_limit_out_of_reach_writes_nothing(
    option: str, value: str, words: tuple[str, ...], cli: Command, here: Path
) -> None:
    before = contents(here)
    cli("compress", "tiny:network", "--input-size", 3, 8, 8, option, value, *QUICK).refused(
        3, *words, "in the way"
    )
    assert contents(here) == before


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3))


def test_limits_from_python() -> None:
    x = torch.zeros(2, 12)
    small = structprune.compress(
        net(), x, limits={"params": 0.5, "flops": "1k"}, score="magnitude", export=False
    )
    assert {row.name: row.asked for row in small.report.limits} == {
        "params": "50 % removed",
        "flops": "at most 1k",
    }
    assert sum(p.numel() for p in small.model.parameters()) <= 0.5 * sum(
        p.numel() for p in net().parameters()
    )
    assert small.report.limits[1].reached <= 1000


def test_limits_from_python_that_make_no_sense() -> None:
    x = torch.zeros(2, 12)
    with pytest.raises(UsageError, match=r"nodes=0\.89.*\{'weights': \.\.\.\}.*\{'latency': \.\.\.\}"):
        structprune.compress(net(), x)
    with pytest.raises(UsageError, match=r"'latency': '2'\}: expected a time with its unit"):
        structprune.compress(net(), x, limits={"latency": 2})
    with pytest.raises(UsageError, match=r"unknown limit 'energy'"):
        structprune.compress(net(), x, limits={"energy": 0.5})
    with pytest.raises(UsageError, match="nodes is given twice"):
        structprune.compress(net(), x, 0.5, limits={"nodes": 0.5})
    with pytest.raises(UsageError, match=r"nodes=1\.5: expected a fraction"):
        structprune.compress(net(), x, nodes=1.5)
    with pytest.raises(TargetUnreachableError, match="params"):
        structprune.compress(net(), x, limits={"params": 0.999}, score="magnitude")
