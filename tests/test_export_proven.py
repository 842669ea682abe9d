"""The ONNX proof with the real tools: the right file, and that of another network."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exporters.toolbox import Toolbox
from structprune.workflows.outputs import export_proven
from tests.networks import TinyResidualConcat, example
from tests.oracles.state import changed, snapshot

LEGACY = Toolbox(exporter="legacy")


@dataclass(frozen=True)
class ExportsAnother(Toolbox):
    """Writes the file of another network: with other weights, the first time or every time."""

    times: int = 100
    written: list[Path] = field(default_factory=list)

    def export(self, model: nn.Module, example: tuple[Tensor, ...], path: Path) -> Any:
        self.written.append(path)
        other = copy.deepcopy(model)
        if len(self.written) <= self.times:
            with torch.no_grad():
                other.get_parameter("head.bias").add_(torch.tensor([1.0, 0.0, -1.0]))
        return super().export(other, example, path)


class Collapsing(TinyResidualConcat):
    """Its outputs hardly vary until its batch norms have seen data."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("stem", "residual"):
            nn.init.normal_(self.get_parameter(f"{name}.weight"), std=1e-3)


INPUTS = (example(TinyResidualConcat, 8),)


def test_the_right_file_passes(tmp_path: Path) -> None:
    proof, notes = export_proven(TinyResidualConcat().eval(), tmp_path / "model.onnx", INPUTS, LEGACY)
    assert proof.passed
    assert notes == ()
    assert (tmp_path / "model.onnx").exists()


def test_the_file_of_another_network_fails(tmp_path: Path) -> None:
    tools = ExportsAnother(exporter="legacy")
    proof, _ = export_proven(TinyResidualConcat().eval(), tmp_path / "model.onnx", INPUTS, tools)
    assert not proof.passed


def test_where_outputs_collapse_a_copy_with_statistics_of_the_inputs_counts(tmp_path: Path) -> None:
    model, path = Collapsing().eval(), tmp_path / "model.onnx"
    assert not LEGACY.check(model, LEGACY.export(model, INPUTS, path).path, INPUTS).passed
    before = snapshot(model)
    proof, _ = export_proven(model, path, INPUTS, LEGACY)
    assert proof.passed
    assert "on a copy with the inputs' batch-norm statistics, the file itself: " in proof.how
    assert proof.spread is not None
    assert proof.spread > 1e-3
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert changed(before, snapshot(model)) == []


@pytest.mark.parametrize("times", [1, 100], ids=["the file itself", "both files"])
def test_where_outputs_collapse_another_network_fails_too(tmp_path: Path, times: int) -> None:
    tools = ExportsAnother(exporter="legacy", times=times)
    proof, _ = export_proven(Collapsing().eval(), tmp_path / "model.onnx", INPUTS, tools)
    assert not proof.passed


class Bright(TinyResidualConcat):
    """Another way for inputs that none of the proof's is."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out * 2 if x.abs().max() > 1e6 else out


FIXED = "control flow fixed to what the example takes"


def test_control_flow_that_only_a_trace_took_is_no_proof(tmp_path: Path) -> None:
    proof, _ = export_proven(Bright().eval(), tmp_path / "model.onnx", INPUTS, Toolbox())
    assert not proof.passed
    assert FIXED in proof.how
    assert proof.error < 1e-5  # no comparison could have told


def test_control_flow_may_be_fixed_by_name(tmp_path: Path) -> None:
    proof, _ = export_proven(Bright().eval(), tmp_path / "model.onnx", INPUTS, LEGACY)
    assert proof.passed
    assert FIXED in proof.how
    assert "times" not in proof.how


class LargeBatch(TinyResidualConcat):
    """Another way from a batch size on that only the exporter knows."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x)
        return out * 2 if x.shape[0] > 40 else out


def test_a_batch_beyond_what_the_exporter_knows_of_is_tried(tmp_path: Path) -> None:
    proof, _ = export_proven(LargeBatch().eval(), tmp_path / "model.onnx", INPUTS, Toolbox())
    assert not proof.passed
    assert proof.how.endswith("a batch of 41")
