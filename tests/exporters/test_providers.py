from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters.runtime.providers import feeds, onnx_runner, open_session, run_once, running_provider
from exporters.to_onnx import to_onnx
from structprune.errors import DeviceUnavailableError, InputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return to_onnx(nn.Linear(4, 2), (torch.ones(1, 4),), tmp_path / "model.onnx").path


def test_the_provider_that_runs_is_named(path: Path) -> None:
    assert running_provider(open_session(path)) == "CPUExecutionProvider"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_onnx_runtime_falling_back_to_the_cpu_is_found_out(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeviceUnavailableError, match="asked for CUDAExecutionProvider but runs on CPU"):
        open_session(path, device="cuda")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_file_that_is_no_model_is_an_input_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.onnx"):
        open_session(path)


class Second(nn.Module):
    """Reads only the second of its inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y * 2


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_an_input_that_is_never_read_does_not_shift_the_others(tmp_path: Path, exporter: str) -> None:
    example = (torch.ones(2, 3), torch.full((2, 4), 5.0))
    path = to_onnx(Second(), example, tmp_path / "model.onnx", exporter=exporter).path  # type: ignore[arg-type]
    session = open_session(path)
    (got,) = session.run(None, feeds(session, example))
    np.testing.assert_array_equal(got, np.full((2, 4), 10.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_inputs_come_in_the_precision_of_the_file(path: Path, dtype: torch.dtype) -> None:
    session = open_session(path)
    x = torch.randn(3, 4).to(dtype)
    (got,) = run_once(session, feeds(session, (x,)))
    np.testing.assert_array_equal(got, run_once(session, feeds(session, (x.float(),)))[0])
    assert onnx_runner(session, (x,))() > 0


def test_a_wrong_number_of_inputs_is_refused(path: Path) -> None:
    session = open_session(path)
    with pytest.raises(InputError, match="got 2 tensors"):
        feeds(session, (torch.ones(1, 4), torch.ones(1, 4)))


def test_inputs_of_the_wrong_shape_are_refused_quietly(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"can't run on inputs of shapes \{'input': \(1, 5\)\}"):
        onnx_runner(open_session(path), (torch.ones(1, 5),))
    assert capfd.readouterr() == ("", "")
