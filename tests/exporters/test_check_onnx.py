from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from exporters.check_onnx import check_onnx
from exporters.to_onnx import to_onnx
from structprune.errors import InputError
from tests.networks import TinyConvBN


@pytest.fixture
def model() -> nn.Module:
    return TinyConvBN().eval()


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    return (torch.randn(8, 3, 8, 8),)


@pytest.fixture
def path(model: nn.Module, inputs: tuple[Tensor, ...], tmp_path: Path) -> Path:
    return to_onnx(model, inputs, tmp_path / "model.onnx").path


def scaled_weight(model: nn.Module) -> None:
    model.conv2.weight[0, 0, 0, 0] += 0.1  # type: ignore[index, operator, union-attr]


def permuted_channel(model: nn.Module) -> None:
    weight_OIkk: Tensor = model.conv2.weight  # type: ignore[assignment, union-attr]
    weight_OIkk[:, [0, 1]] = weight_OIkk[:, [1, 0]]


def dropped_channel(model: nn.Module) -> None:
    model.conv2.weight[:, 2] = 0  # type: ignore[operator, union-attr]


def not_a_number(model: nn.Module) -> None:
    model.head.bias[0] = math.nan  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("fault", [scaled_weight, permuted_channel, dropped_channel, not_a_number])
def test_planted_faults_fail(
    model: nn.Module, path: Path, inputs: tuple[Tensor, ...], fault: Callable[[nn.Module], None]
) -> None:
    assert check_onnx(model, path, inputs).passed
    faulty = copy.deepcopy(model)
    with torch.no_grad():
        fault(faulty)
    assert not check_onnx(faulty, path, inputs).passed


def test_the_figures_are_those_of_a_plain_computation(
    model: nn.Module, path: Path, inputs: tuple[Tensor, ...]
) -> None:
    with torch.no_grad():
        model.head.bias.add_(torch.tensor([0.01, 0.0, -0.02]))  # type: ignore[operator, union-attr]
        b = model(*inputs).double().numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    a = session.run(None, {"input": inputs[0].numpy()})[0].astype(float)
    spreads = [math.sqrt(sum((v - column.mean()) ** 2 for v in column) / len(column)) for column in b.T]
    s, largest, difference = sum(spreads) / len(spreads), np.abs(b).max(), np.abs(a - b).max()
    proof = check_onnx(model, path, inputs)
    assert proof.spread == pytest.approx(s / largest)
    assert proof.error == pytest.approx(difference / largest, rel=1e-3)
    assert proof.error_of_spread == pytest.approx(difference / s, rel=1e-3)


def test_a_constant_output_proves_nothing(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    path = to_onnx(model, (torch.ones(1, 4),), tmp_path / "model.onnx").path
    proof = check_onnx(model, path, (torch.randn(8, 4),))
    assert not proof.passed
    assert (proof.error, proof.spread) == (0.0, 0.0)


def test_an_output_that_hardly_varies_proves_nothing(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.mul_(1e-5)
        model.bias.fill_(1.0)
    path = to_onnx(model, (torch.ones(1, 4),), tmp_path / "model.onnx").path
    proof = check_onnx(model, path, (torch.randn(8, 4),))
    assert proof.error < 1e-4
    assert not proof.passed


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.good, self.bad = nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"good": self.good(x), "bad": self.bad(x)}


def test_the_worst_of_several_outputs_decides(tmp_path: Path) -> None:
    model, inputs = TwoHeads(), (torch.randn(8, 4),)
    path = to_onnx(model, inputs, tmp_path / "model.onnx").path
    assert check_onnx(model, path, inputs).passed
    with torch.no_grad():
        model.bad.weight[1, 1] += 0.5
    assert not check_onnx(model, path, inputs).passed


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x).reshape(2, 4)
        return out


def test_a_batch_size_that_was_baked_in_fails(tmp_path: Path) -> None:
    path = to_onnx(FixedBatch(), (torch.ones(2, 4),), tmp_path / "model.onnx", exporter="legacy").path
    assert check_onnx(FixedBatch(), path, (torch.randn(2, 4),), batches=(2,)).error > 0

    proof = check_onnx(nn.Linear(4, 4), path, (torch.randn(7, 4),))
    assert not proof.passed
    assert proof.error == math.inf


def test_another_file_of_another_shape_fails(
    model: nn.Module, inputs: tuple[Tensor, ...], tmp_path: Path
) -> None:
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    path = to_onnx(narrow, inputs, tmp_path / "model.onnx").path
    proof = check_onnx(model, path, inputs)
    assert not proof.passed
    assert proof.error == math.inf


def test_modes_are_as_before(model: nn.Module, path: Path, inputs: tuple[Tensor, ...]) -> None:
    model.train()
    state = copy.deepcopy(model.state_dict())
    assert check_onnx(model, path, inputs).passed
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_too_few_inputs_are_refused(model: nn.Module, path: Path, inputs: tuple[Tensor, ...]) -> None:
    with pytest.raises(InputError, match="takes 7 inputs; got 6"):
        check_onnx(model, path, (inputs[0][:6],))
