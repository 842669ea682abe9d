from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporters.int8 import quantised
from exporters.measure import Setting
from exporters.to_int8 import OnnxModule, compare_files, to_int8
from exporters.to_onnx import to_onnx
from structprune.errors import InputError

INPUTS = (torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    ).eval()


@pytest.fixture
def float32(tmp_path: Path) -> Path:
    return to_onnx(network(), INPUTS, tmp_path / "model.onnx").path


def test_the_file_holds_int8_weights_runs_at_any_batch_and_says_nothing_of_where_it_was_made(
    float32: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.int8.onnx"
    before = sorted(tmp_path.iterdir())
    to_int8(float32, INPUTS, out)
    assert sorted(tmp_path.iterdir()) == sorted([*before, out])
    graph = onnx.load(out)
    weights = [w for w in graph.graph.initializer if w.data_type == onnx.TensorProto.INT8 and len(w.dims) > 1]
    assert sum(math.prod(w.dims) for w in weights) == 3 * 16 * 9 + 16 * 16 * 9 + 256 * 5
    assert not graph.metadata_props
    assert str(tmp_path).encode() not in out.read_bytes()
    for batch in (1, 7):
        assert OnnxModule(out)(INPUTS[0][:batch]).shape == (batch, 5)


def test_what_is_compared_is_what_a_loop_over_inputs_finds(float32: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.int8.onnx"
    to_int8(float32, INPUTS, out)
    found = compare_files(float32, out, INPUTS)
    b, a = (np.concatenate([OnnxModule(p)(x[None]).numpy() for x in INPUTS[0]]) for p in (float32, out))
    assert found.inputs == 32
    assert found.same_largest == sum(x.argmax() == y.argmax() for x, y in zip(a, b, strict=True)) / 32
    assert found.error_of_spread == pytest.approx(np.abs(a - b).max() / b.std(axis=0).mean(), rel=1e-4)
    assert 0 < found.error_of_spread < 1


def test_half_of_the_inputs_calibrate_and_the_others_are_compared_on(float32: Path, tmp_path: Path) -> None:
    found = quantised(float32, tmp_path / "model.int8.onnx", INPUTS)
    assert (found.calibrated, found.compared, found.measurements) == (16, 16, ())
    few = tuple(x[:4] for x in INPUTS)
    found = quantised(float32, tmp_path / "again.onnx", few)
    assert (found.calibrated, found.compared) == (4, 4)


def test_both_files_are_sized_and_timed_in_turn(float32: Path, tmp_path: Path) -> None:
    told: list[str] = []
    setting = Setting(batches=(2,))
    found = quantised(float32, tmp_path / "model.int8.onnx", INPUTS, setting, told.append)
    assert [row.name for row in found.measurements] == ["disk", "batch_time"]
    assert told == ["batch time of int8 (onnxruntime, batch 2)"]
    assert all(row.verdict for row in found.measurements)


def test_a_file_that_can_not_be_quantised_is_an_input_error(float32: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't quantise 'model\.onnx'.*leave int8 out"):
        to_int8(float32, (torch.ones(4, 3, 2, 2),), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
