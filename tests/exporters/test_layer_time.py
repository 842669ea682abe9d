from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from exporters.probes.layer_time import (
    LayerTime,
    compared,
    kernel_operators,
    kernel_times,
    layer_times,
    not_faster,
    profile,
)
from exporters.probes.node_modules import label_kernels, module_path, read_nodes
from exporters.to_onnx import to_onnx
from structprune.errors import InputError
from structprune.report.data import Ratio


class Block(nn.Module):
    """Two branches that are summed: ONNX Runtime fuses the sum into one of the convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.beside = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = (self.bn(self.conv(x)) + self.beside(x)).relu()
        return summed


class Preactivated(nn.Module):
    """A batch norm that no convolution can take in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = self.conv(self.norm(x).relu())
        return done


def network(channels: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU()),
        Block(channels),
        Preactivated(channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


EXAMPLE = (torch.randn(2, 3, 12, 12),)


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.parametrize("channels", [16, 13])
def test_every_layer_with_weights_is_found_under_its_own_name(
    tmp_path: Path, exporter: Literal["legacy", "dynamo"], channels: int
) -> None:
    model = network(channels)
    path = to_onnx(model, EXAMPLE, tmp_path / "model.onnx", exporter=exporter).path
    taken = profile(path, EXAMPLE)
    weighted = {
        name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    } - {"1.bn"}
    assert weighted <= set(taken)
    assert "1.bn" not in taken
    assert "2.norm" in taken
    assert all(time >= 0 for time in taken.values())


def test_a_wider_network_is_slower_where_it_is_wider(tmp_path: Path) -> None:
    files = [
        to_onnx(network(channels), EXAMPLE, tmp_path / f"{channels}.onnx").path for channels in (256, 16)
    ]
    itself, against = layer_times(files, EXAMPLE)
    by_name = {row.layer: row for row in against}
    assert by_name["2.conv"].got_faster
    assert [row.dense for row in against] == sorted(
        (row.dense for row in against), key=lambda time: -(time or 0.0)
    )
    assert sum(row.share for row in against) == pytest.approx(1)
    assert all(row.dense == row.pruned for row in itself)
    assert "2.conv" not in not_faster(against)
    assert {row.ratio for row in itself} == {None}
    assert not_faster(itself) == ""


def test_layers_of_one_network_alone_have_no_ratio() -> None:
    dense = [{"a": 2.0, "b": 1.0}] * 3
    pruned = [{"a": 1.0, "(ReorderInput)": 3.0}] * 3
    rows = {row.layer: row for row in compared(dense, pruned)}
    assert rows["a"].ratio == Ratio(2.0, 2.0, 2.0)
    assert (rows["b"].pruned, rows["b"].ratio, rows["b"].share) == (None, None, 0.0)
    assert (rows["(ReorderInput)"].dense, rows["(ReorderInput)"].share) == (None, 0.75)


def test_the_layers_that_did_not_get_faster_are_named_by_their_weight() -> None:
    same, faster = Ratio(1.0, 0.99, 1.01), Ratio(3.0, 2.9, 3.1)
    rows = [
        LayerTime("quick", 3.0, 1.0, faster, 0.3),
        LayerTime("small", 0.5, 0.5, same, 0.2),
        LayerTime("large", 1.0, 1.0, same, 0.499),
        LayerTime("nothing", 0.001, 0.001, same, 0.001),
        LayerTime("new", None, 0.1, None, 0.1),
    ]
    assert not_faster(rows) == (
        "2 layers did not get faster and take 70 % of the time: large (1.00x), small (1.00x)"
    )
    assert not_faster(rows[:1]) == ""


def event(name: str, microseconds: int) -> dict[str, object]:
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": "Conv"}}


def test_kernels_that_run_while_loading_do_not_count() -> None:
    session: dict[str, object] = {"cat": "Session", "name": "run"}
    events = [event("folded", 9), event("a", 1000), session, event("a", 3000)]
    assert kernel_times(events) == {("a_kernel_time", "Conv"): [1.0, 3.0]}


def test_operators_are_those_left_after_fusion(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    path = to_onnx(model, EXAMPLE, tmp_path / "model.onnx").path
    assert kernel_operators(path, EXAMPLE).count("Conv") == 1
    assert "Relu" not in kernel_operators(path, EXAMPLE)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("/conv1/Conv", "conv1"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/features/features.2/conv/conv.1/conv.1.2/Clip", "features.2.conv.1.2"),
        ("/Flatten", ""),
        ("node_mean", ""),
    ],
)
def test_modules_in_the_names_of_nodes(name: str, module: str) -> None:
    assert module_path(name) == module


def test_a_kernel_that_the_file_does_not_know_is_called_by_its_operator(tmp_path: Path) -> None:
    path = to_onnx(nn.Linear(4, 2), (torch.ones(1, 4),), tmp_path / "model.onnx").path
    kernels = [("reorder_kernel_time", "ReorderInput"), ("fused /Gemm_kernel_time", "FusedGemm")]
    assert list(label_kernels(kernels, read_nodes(path)).values()) == ["(ReorderInput)", "/Gemm"]


def test_a_file_that_cant_run_on_the_inputs_is_an_input_error(tmp_path: Path) -> None:
    path = to_onnx(nn.Linear(4, 2), (torch.ones(2, 4),), tmp_path / "model.onnx").path
    with pytest.raises(InputError, match=r"can't run on inputs of shapes .*\(1, 5\)"):
        layer_times([path], (torch.ones(1, 5),))
