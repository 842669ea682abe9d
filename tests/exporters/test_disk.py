from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from exporters.disk import disk, onnx_bytes, weight_bytes
from exporters.networks import Network
from exporters.to_onnx import to_onnx


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    model = nn.Linear(100, 100)
    path = to_onnx(model, (torch.ones(1, 100),), tmp_path / "model.onnx").path
    onnx, weights = disk([Network(model, path)])
    assert onnx.networks[0].samples == (path.stat().st_size / 1e6,)
    assert 40_400 < float(weights.networks[0].extra["bytes"]) < 41_500
    assert (onnx.unit, weights.unit, onnx.extra["file"]) == ("MB", "MB", "ONNX file")


def test_weights_beside_the_file_count(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x" * 10)
    (tmp_path / "model.onnx.data").write_bytes(b"x" * 90)
    assert onnx_bytes(path) == 100


def test_tied_weights_count_once() -> None:
    tied = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    apart = weight_bytes(tied)
    tied[1].weight = tied[0].weight
    assert weight_bytes(tied) < apart - 39_000
