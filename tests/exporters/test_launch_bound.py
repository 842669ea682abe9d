from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from exporters.probes.launch_bound import (
    Floor,
    Operators,
    count_operators,
    floor,
    launch_notes,
    with_launches,
)
from exporters.probes.readings import Reading, Readings
from exporters.to_onnx import to_onnx

EXAMPLE = (torch.randn(2, 3, 8, 8),)


def times(*ms: float, batch: int = 1) -> Readings:
    return Readings(
        "batch_time", "torch", batch, 1, "ms", "played", tuple(Reading((each,) * 3) for each in ms)
    )


def test_operators_are_counted_in_both_forms(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Sigmoid(), nn.Conv2d(16, 4, 3), nn.Tanh())
    in_torch = count_operators(model, EXAMPLE)
    assert (in_torch.heavy, in_torch.light) == (2, 2)
    path = to_onnx(model, EXAMPLE, tmp_path / "model.onnx").path
    assert count_operators(path, EXAMPLE).heavy == 2


def test_the_floor_is_what_a_network_of_so_many_operators_takes() -> None:
    found = floor("onnxruntime")
    assert min(found.call, found.heavy, found.light) >= 0
    assert found.of(Operators(100, 100)) > found.of(Operators(1, 1)) > 0


def test_measuring_the_floor_leaves_the_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    floor.__wrapped__("torch")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_near_its_floor_is_launch_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    least_times = Floor(call=0.1, heavy=0.2, light=0.05)
    monkeypatch.setattr("exporters.probes.launch_bound.floor", lambda *_: least_times)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    least = 0.1 + 0.2 + 0.05
    found = [
        with_launches(times(10 * least, least / 0.8, batch=1), [model, model], EXAMPLE),
        with_launches(times(50 * least, least / 0.6, batch=8), [model, model], EXAMPLE),
        with_launches(times(80 * least, 4 * least, batch=32), [model, model], EXAMPLE),
    ]
    assert [row.networks[1].extra["operators"] for row in found] == [2.0] * 3
    shares = [float(row.networks[1].extra["launch_share"]) for row in found]
    assert shares == pytest.approx([0.8, 0.6, 0.25])
    assert launch_notes(found, ["dense", "pruned"]) == [
        "pruned is launch-bound in torch at batch 1 and 8: at batch 1 calling its 2 operators takes about "
        "80 % of its time, whatever they compute, so fewer channels hardly make it faster"
    ]


def test_nothing_is_said_of_what_is_compiled() -> None:
    compiled = replace(times(1.0), runtime="torch-compile")
    assert with_launches(compiled, [nn.ReLU()], EXAMPLE) == compiled
    assert launch_notes([compiled], ["it"]) == []
