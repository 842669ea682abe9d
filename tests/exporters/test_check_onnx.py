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
from exporters.runtime.quiet import quiet
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


class Ways(nn.Module):
    """Goes another way for some inputs."""

    def __init__(self, other: Callable[[Tensor], bool]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), other

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu()
        out: Tensor = self.head((h * 1.5 if self.other(x) else h).mean((2, 3)))
        return out


@pytest.mark.parametrize(
    ("other", "where"),
    [
        (lambda x: bool(x.abs().max() > 8), "inputs times 10"),
        (lambda x: bool(x.abs().max() < 1), "inputs times 0.1"),
        (lambda x: len(x) > 16, "a batch of 33"),
        (lambda x: len(x) == 1, "a batch of 1"),
    ],
)
def test_a_way_that_the_file_lacks_is_found(
    other: Callable[[Tensor], bool], where: str, inputs: tuple[Tensor, ...], tmp_path: Path
) -> None:
    model = Ways(lambda _: False)
    path = to_onnx(model, inputs, tmp_path / "model.onnx").path
    assert check_onnx(model, path, inputs).passed
    model.other = other
    proof = check_onnx(model, path, inputs)
    assert not proof.passed
    assert proof.error > 1e-2
    assert proof.how.endswith(where)


def sizes_dynamic(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Path:
    """Write a file that calls the image size dynamic."""
    axes = {0: "batch", 2: "height", 3: "width"}
    with quiet():
        torch.onnx.export(
            model, inputs, path, dynamo=False, input_names=["input"], dynamic_axes={"input": axes}
        )
    return path


@pytest.mark.parametrize(
    ("other", "where"),
    [(lambda x: x.shape[-1] > 8, "twice the size"), (lambda x: x.shape[-1] < 8, "half the size")],
)
def test_another_size_is_tried_where_the_file_calls_it_dynamic(
    other: Callable[[Tensor], bool], where: str, inputs: tuple[Tensor, ...], tmp_path: Path
) -> None:
    model = Ways(lambda _: False).eval()
    path = sizes_dynamic(model, inputs, tmp_path / "dynamic.onnx")
    proof = check_onnx(model, path, inputs)
    assert proof.passed
    assert "twice the size, (3, 16, 16)" in proof.how
    fixed = to_onnx(model, inputs, tmp_path / "fixed.onnx").path
    model.other = other
    assert not check_onnx(model, path, inputs).passed
    assert where in check_onnx(model, path, inputs).how.rpartition(";")[2]
    assert check_onnx(model, fixed, inputs).passed


class Refusing(Ways):
    """Takes no batch above 8, and overflows on large inputs."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 8:
            raise RuntimeError("one device holds 8")
        return super().forward(x) * (1 + 0 * torch.exp(x.abs().amax((1, 2, 3)) * 5))[:, None]


def test_what_the_network_does_not_take_is_named(inputs: tuple[Tensor, ...], tmp_path: Path) -> None:
    model = Refusing(lambda _: False)
    path = to_onnx(model, inputs, tmp_path / "model.onnx").path
    proof = check_onnx(model, path, inputs)
    assert proof.passed
    _, _, missed = proof.how.partition("not tried: ")
    assert "a batch of 33 (the network: one device holds 8)" in missed
    assert "inputs times 10 (the network puts out values that are not finite)" in missed


def test_a_network_that_takes_none_of_the_inputs_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match=r"can't run on inputs of shapes \[\(8, 4\)\]"):
        check_onnx(nn.Linear(5, 2), path, (torch.randn(8, 4),))


@pytest.mark.parametrize(("whole", "tried"), [(True, False), (False, True)])
def test_a_large_batch_that_costs_much_is_tried_where_there_is_a_doubt(
    whole: bool,
    tried: bool,
    model: nn.Module,
    path: Path,
    inputs: tuple[Tensor, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("exporters.check_onnx.AFFORDABLE", 10.0)
    proof = check_onnx(model, path, inputs, whole=whole)
    assert proof.passed
    assert ("batches of 1, 2, 7, 33" in proof.how) == tried
    assert ("not tried: a batch of 33" in proof.how) != tried


def test_whole_numbers_stay_as_they_are(tmp_path: Path) -> None:
    model, ids = (
        nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)),
        torch.randint(0, 9, (8, 3)),
    )
    proof = check_onnx(model, to_onnx(model, (ids,), tmp_path / "model.onnx").path, (ids,))
    assert proof.passed
    assert "times" not in proof.how
