from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from exporters.measure import Setting, measure, measure_many, measure_one
from exporters.runtime.networks import Network
from exporters.to_onnx import to_onnx
from structprune.errors import DeviceUnavailableError, UsageError

EXAMPLE = (torch.ones(1, 32),)
QUICK = Setting(batches=(1,), seconds=0.5)


def modules(*widths: int) -> list[nn.Module]:
    return [nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 2)) for width in widths]


def exported(folder: Path, models: Sequence[nn.Module]) -> list[Network]:
    return [
        Network(model, to_onnx(model, EXAMPLE, folder / f"{i}.onnx").path) for i, model in enumerate(models)
    ]


def networks(folder: Path, *widths: int) -> list[Network]:
    return exported(folder, modules(*widths))


def test_every_probe_runs_and_leaves_the_networks_alone(tmp_path: Path) -> None:
    models = modules(4096, 8)
    dense, pruned = exported(tmp_path, models)
    before = [{key: value.clone() for key, value in model.state_dict().items()} for model in models]
    told: list[str] = []
    measured = measure(
        models[0],
        models[1],
        EXAMPLE,
        dense_onnx=dense.onnx,
        pruned_onnx=pruned.onnx,
        batches=(1, 4),
        seconds=0.5,
        country="FRA",
        progress=told.append,
    )
    assert all("is launch-bound in " in note for note in measured.notes)
    names = Counter(taken.name for taken in measured.measurements)
    assert names == {"flops": 1, "disk": 2, "batch_time": 4, "memory": 1, "energy": 1, "emissions": 1}
    assert {(m.runtime, m.batch) for m in measured.measurements if m.name == "batch_time"} == {
        (runtime, batch) for runtime in ("torch", "onnxruntime") for batch in (1, 4)
    }
    assert told[0] == "flops"
    assert len(told) == 8
    for taken in measured.measurements:
        assert taken.ratio is not None
        assert taken.ratio.value > 1
        assert taken.verdict
        json.dumps(asdict(taken), allow_nan=False)
    for model, state in zip(models, before, strict=True):
        assert model.training
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_several_networks_are_held_against_the_first(tmp_path: Path) -> None:
    measured = measure_many(networks(tmp_path, 512, 64, 8), EXAMPLE, QUICK)
    flops = [next(m for m in each.measurements if m.name == "flops") for each in measured]
    assert [m.dense.median for m in flops] == [512 * 34 / 1e9] * 3
    assert [m.pruned.median for m in flops] == [width * 34 / 1e9 for width in (512, 64, 8)]
    assert [m.ratio and m.ratio.value for m in flops] == [None, 8.0, 64.0]


def test_one_network_alone_has_no_ratios(tmp_path: Path) -> None:
    (model,) = modules(8)
    (network,) = exported(tmp_path, [model])
    measured = measure_one(model, network.onnx, EXAMPLE, QUICK)
    assert len(measured.measurements) == 8
    for taken in measured.measurements:
        assert (taken.ratio, taken.verdict, taken.dense) == (None, "", taken.pruned)


def test_a_probe_that_can_not_run_becomes_a_note(tmp_path: Path) -> None:
    dense, pruned = networks(tmp_path, 16, 8)
    pruned.onnx.unlink()
    _, measured = measure_many([dense, pruned], EXAMPLE, QUICK)
    assert {(m.name, m.runtime) for m in measured.measurements} == {
        ("flops", "none"),
        ("batch_time", "torch"),
    }
    failed = [note for note in measured.notes if " was not measured: " in note]
    assert [note.partition(" was not measured: ")[0] for note in failed] == [
        "disk",
        "batch time (onnxruntime, batch 1)",
        "memory",
        "energy",
    ]


@pytest.mark.parametrize(
    "wrong", [Setting(batches=()), Setting(batches=(0,)), Setting(threads=(0,)), Setting(seconds=0)]
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, wrong: Setting) -> None:
    with pytest.raises(UsageError, match="must all be positive"):
        measure_many(networks(tmp_path, 8), EXAMPLE, wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_a_device_that_is_not_there_is_no_note_but_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailableError, match="'cuda' was asked for"):
        measure_many(networks(tmp_path, 8), EXAMPLE, Setting(device="cuda"))
    with pytest.raises(UsageError, match="nothing to measure"):
        measure_many([], EXAMPLE)
