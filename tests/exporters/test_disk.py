from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from exporters.probes.disk import disk, onnx_bytes, weight_bytes
from exporters.runtime.networks import Network
from exporters.to_onnx import to_onnx


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    model = nn.Linear(100, 100)
    path = to_onnx(model, (torch.ones(1, 100),), tmp_path / "model.onnx").path
    file, weights = disk([Network(model, path)])
    assert file.networks[0].samples == (path.stat().st_size / 1e6,)
    assert 40_400 < float(weights.networks[0].extra["bytes"]) < 41_500
    assert (file.unit, weights.unit, file.extra["file"]) == ("MB", "MB", "ONNX file")


@pytest.mark.parametrize("place", ["model.onnx.data", "model.onnx_data"])
def test_weights_beside_the_file_count_wherever_they_lie(place: str, tmp_path: Path) -> None:
    whole = to_onnx(nn.Linear(100, 100), (torch.ones(1, 100),), tmp_path / "whole.onnx").path
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load(whole), path, save_as_external_data=True, location=place, size_threshold=0)
    (tmp_path / "model.onnx.other").write_bytes(b"of something else")
    assert path.stat().st_size < 2000
    assert onnx_bytes(path) == path.stat().st_size + (tmp_path / place).stat().st_size > 40_000
    (tmp_path / place).unlink()
    with pytest.raises(OSError, match=place):
        onnx_bytes(path)


def test_tied_weights_count_once() -> None:
    tied = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    apart = weight_bytes(tied)
    tied[1].weight = tied[0].weight
    assert weight_bytes(tied) < apart - 39_000
