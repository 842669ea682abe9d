from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from exporters.probes.batch_time import batch_times
from exporters.runtime.providers import onnx_runner, open_session
from exporters.runtime.runners import RUNTIMES, runtimes_on
from exporters.to_onnx import to_onnx
from structprune.errors import InputError, UsageError

EXAMPLE = (torch.ones(1, 4),)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU())


def test_every_runtime_says_what_it_is_and_on_the_cpu_nothing_is_copied() -> None:
    assert len({runner.words for runner in RUNTIMES.values()}) == len(RUNTIMES)
    assert runtimes_on("cpu", ("torch", "torch-compile", "onnxruntime")) == (
        "torch",
        "torch-compile",
        "onnxruntime",
    )
    assert runtimes_on("cuda", ("onnxruntime", "torch")) == ("torch", "onnxruntime", "onnxruntime-copies")
    with pytest.raises(UsageError, match=r"unknown runtime 'tflite'.*torch, torch-compile, onnxruntime"):
        runtimes_on("cpu", ("tflite",))  # type: ignore[arg-type]


def test_a_module_is_compiled_once_and_run_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def compiling(model: nn.Module, **options: Any) -> nn.Module:
        compiled.append(model)
        assert not model.training
        return model

    monkeypatch.setattr(torch, "compile", compiling)
    models = [small(), small()]
    taken = batch_times(models, EXAMPLE, batch=2, seconds=0.01, runtime="torch-compile")
    assert compiled == models
    assert taken.runtime == "torch-compile"
    assert "torch.compile once before the clock runs; 1 CPU thread(s)" in taken.how
    assert all(model.training for model in models)


def test_a_compiler_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(model: nn.Module, **options: Any) -> Any:
        def run(*inputs: object) -> None:
            raise ValueError("no C++ compiler\nand a long trace")

        return run

    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler .*: no C\+\+ compiler$"):
        batch_times([small()], EXAMPLE, runtime="torch-compile")


def test_the_outputs_of_bound_runs_are_those_of_plain_ones(tmp_path: Path) -> None:
    model = small()
    session = open_session(to_onnx(model, EXAMPLE, tmp_path / "model.onnx").path)
    for copies in (False, True):
        run = onnx_runner(session, (torch.randn(5, 4),), copies=copies)
        assert run() > 0


def test_forms_that_a_runtime_does_not_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't run the ONNX file 'model\.onnx'"):
        batch_times([tmp_path / "model.onnx"], EXAMPLE, runtime="torch")
    with pytest.raises(UsageError, match="export the network first"):
        batch_times([small()], EXAMPLE, runtime="onnxruntime")
