from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from exporters.probes.disk import onnx_bytes
from exporters.toolbox import Toolbox

EXAMPLE = (torch.ones(2, 32),)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{width}.onnx" for width in (2048, 64, 8)]
    for path in paths:
        width = int(path.stem)
        net = nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 2))
        Toolbox().export(net, EXAMPLE, path)
    return paths


def test_files_are_held_against_the_first(files: list[Path]) -> None:
    tools = Toolbox(batches=(3, 8), threads=2)
    timed = tools.compare("batch_time", files, EXAMPLE, 0.2)
    assert [row.ratio is None for row in timed] == [True, False, False]
    assert {(row.name, row.runtime, row.batch, row.threads, row.unit) for row in timed} == {
        ("batch_time", "onnxruntime", 3, 2, "ms")
    }
    sized = tools.compare("disk", files, EXAMPLE, 0.2)
    assert [row.pruned.median * 1e6 for row in sized] == pytest.approx([onnx_bytes(path) for path in files])
    assert sized[0].extra["file"] == "ONNX file"


def test_the_memory_of_one_file(files: list[Path]) -> None:
    (taken,) = Toolbox().compare("memory", files[2:], EXAMPLE, 0.2)
    assert taken.ratio is None
    assert taken.dense == taken.pruned
    assert (taken.unit, taken.batch) == ("MB", 1)
    assert taken.pruned.median > 1
