from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from exporters.probes.memory import PHASES, memory, resident_set
from exporters.probes.resident_set import phase
from exporters.runtime.networks import Network
from exporters.to_onnx import to_onnx
from structprune.errors import InputError

MEGABYTE = 1e6


def test_weights_show_in_the_resident_set_and_the_parents_do_not(tmp_path: Path) -> None:
    example = (torch.ones(1, 1000),)
    models = [nn.Linear(1000, units) for units in (20_000, 10)]
    networks = [
        Network(model, to_onnx(model, example, tmp_path / f"{i}.onnx").path) for i, model in enumerate(models)
    ]
    ours = np.ones(60_000_000)
    readings = memory(networks, example, batch=2)
    assert ours.nbytes / MEGABYTE == 480
    large, small = (float(reading.extra["network"]) for reading in readings.networks)
    assert large > 80 > small > 0
    for reading in readings.networks:
        assert 10 < float(reading.extra["baseline"]) < 300
        assert all(sample > float(reading.extra["baseline"]) for sample in reading.samples)
        for name in PHASES:
            peak, after = (float(reading.extra[f"{name}_{what}"]) for what in ("peak", "after"))
            assert peak >= after > 0
    held = [float(reading.extra["steady_after"]) for reading in readings.networks]
    assert held[0] - held[1] > 70
    assert "resident set (CPU)" in readings.how
    assert "GPU" not in readings.how


def test_a_file_that_the_child_can_not_run_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"bad\.onnx.*process of its own"):
        resident_set(path, {"input": np.ones((1, 4))})


def resident(size: int) -> mmap.mmap:
    """Memory from the system itself: what malloc hands out may have been resident before, and stay so."""
    region = mmap.mmap(-1, size)
    region[:: mmap.PAGESIZE] = b"1" * (size // mmap.PAGESIZE)
    return region


def test_a_phase_has_a_peak_of_its_own() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system can't begin the peak of a process anew")
    large = phase(lambda: resident(60_000 * mmap.PAGESIZE).close())
    held: list[mmap.mmap] = []
    small = phase(lambda: held.append(resident(2_000 * mmap.PAGESIZE)))
    assert large["peak"] - large["after"] > 40_000 * mmap.PAGESIZE
    assert large["peak"] - small["peak"] > 40_000 * mmap.PAGESIZE
    assert small["after"] <= small["peak"]
    held[0].close()
