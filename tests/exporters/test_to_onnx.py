from __future__ import annotations

import os
import resource
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import exporters.to_onnx
from exporters.check_onnx import check_onnx
from exporters.save_onnx import save_onnx
from exporters.to_onnx import to_onnx
from structprune.choices import Exporter
from structprune.errors import InputError, OutputError
from tests.networks import TinyConvBN

IMAGES = (torch.ones(1, 3, 8, 8),)


class ByContent(nn.Module):
    """Goes one way or the other by what it sees: nothing a trace can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x) if x.sum() > 0 else self.head(-x)
        return out


class ByShape(nn.Module):
    """An assertion on shapes, which tracing warns about and which is harmless."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        out: Tensor = self.head(x)
        return out


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, object]:
        return {"sum": self.head(x + y), "both": (x * 2, None, y * 3)}


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
            raise RuntimeError("no exporter gets through here")
        return x


def first_dimension(path: Path) -> str:
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape
    return str(shape.dim[0].dim_param)


@pytest.mark.parametrize("exporter", ["auto", "legacy", "dynamo"])
def test_one_file_with_a_dynamic_batch_that_computes_the_same(tmp_path: Path, exporter: Exporter) -> None:
    model = TinyConvBN()
    export = to_onnx(model, IMAGES, tmp_path / "model.onnx", exporter=exporter)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert first_dimension(export.path) == "batch"
    assert (export.input_names, export.output_names) == (("input",), ("output",))
    assert export.exporter == ("dynamo" if exporter == "dynamo" else "legacy")
    assert export.fallback is None
    assert check_onnx(model, export.path, (torch.randn(8, 3, 8, 8),)).passed


def test_modes_come_back_one_by_one(tmp_path: Path) -> None:
    model = TinyConvBN().train()
    model.bn1.eval()
    before = {name: module.training for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    to_onnx(model, IMAGES, tmp_path / "model.onnx")
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("opset", [17, 20])
def test_the_opset_asked_for_is_written(tmp_path: Path, opset: int) -> None:
    export = to_onnx(TinyConvBN(), IMAGES, tmp_path / "model.onnx", opset=opset)
    assert export.opset == opset == onnx.load(export.path).opset_import[0].version


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_the_file_is_the_same_twice_and_says_nothing_of_where_it_was_made(
    tmp_path: Path, exporter: Exporter
) -> None:
    model = TinyConvBN()
    files = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for file in files:
        to_onnx(model, IMAGES, file, exporter=exporter)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b".py" not in files[0].read_bytes()


def test_outputs_of_several_parts_keep_their_names_and_order(tmp_path: Path) -> None:
    model = Several()
    export = to_onnx(model, (torch.ones(1, 4), torch.ones(1, 4)), tmp_path / "model.onnx")
    assert export.input_names == ("input_0", "input_1")
    assert export.output_names == ("sum", "both_0", "both_2")
    assert check_onnx(model, export.path, (torch.randn(8, 4), torch.randn(8, 4))).passed


def test_a_harmless_doubt_of_tracing_goes_to_dynamo_with_the_reason(tmp_path: Path) -> None:
    export = to_onnx(ByShape(), (torch.ones(1, 4),), tmp_path / "model.onnx")
    assert export.exporter == "dynamo"
    assert export.fallback is not None
    assert export.fallback.startswith("legacy: ")


def test_what_a_trace_bakes_in_is_caught_by_the_check(tmp_path: Path) -> None:
    model = ByContent()
    export = to_onnx(model, (torch.ones(1, 4),), tmp_path / "model.onnx")
    assert export.exporter == "legacy"
    assert export.fallback is not None
    assert "dynamo: " in export.fallback
    assert not check_onnx(model, export.path, (-torch.rand(8, 4),)).passed


class ByBatch(nn.Module):
    """Another way for large batches."""

    def __init__(self, most: int = 16) -> None:
        super().__init__()
        self.head, self.most = nn.Linear(4, 2), most

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(-x if x.shape[0] > self.most else x)
        return out


class BySilentComparison(ByContent):
    """A comparison of which the tracer says nothing."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x) if torch.equal(x, x.abs()) else self.head(-x)
        return out


@pytest.mark.parametrize(
    ("model", "fixed"), [(ByContent(), "__bool__"), (BySilentComparison(), "equal")], ids=["bool", "equal"]
)
def test_control_flow_on_values_is_known_of_a_trace(tmp_path: Path, model: nn.Module, fixed: str) -> None:
    for exporter in ("auto", "legacy"):
        export = to_onnx(model, (torch.ones(1, 4),), tmp_path / "model.onnx", exporter=exporter)
        assert (export.exporter, export.fixed, export.whole) == ("legacy", (fixed,), False)


def test_control_flow_on_shapes_is_told_from_one_on_values(tmp_path: Path) -> None:
    traced = to_onnx(ByBatch(), (torch.ones(1, 4),), tmp_path / "model.onnx", exporter="legacy")
    assert (traced.fixed, traced.whole, traced.most) == ((), False, None)
    read = to_onnx(ByBatch(64), (torch.ones(1, 4),), tmp_path / "model.onnx")
    assert (read.exporter, read.fixed, read.whole, read.most) == ("dynamo", (), False, 64)
    plain = to_onnx(nn.Linear(4, 2), (torch.ones(1, 4),), tmp_path / "model.onnx")
    assert (plain.fixed, plain.whole, plain.most) == ((), True, None)


def test_weights_beyond_one_file_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = nn.Linear(64, 64), tmp_path / "model.onnx"
    with monkeypatch.context() as small:
        small.setattr(exporters.to_onnx, "ONE_FILE", 0)
        export = to_onnx(model, (torch.ones(1, 64),), path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (export.exporter, export.fallback) == ("dynamo", "legacy: it writes no more than 2 GB")
    assert check_onnx(model, path, (torch.randn(8, 64),)).passed
    # Written again in one file, the old weights beside it go.
    to_onnx(model, (torch.ones(1, 64),), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("exporter", ["auto", "legacy", "dynamo"])
def test_a_network_that_nothing_exports_leaves_no_file(tmp_path: Path, exporter: Exporter) -> None:
    with pytest.raises(InputError, match="can't be exported to ONNX"):
        to_onnx(Untraceable(), (torch.ones(1, 4),), tmp_path / "model.onnx", exporter=exporter)
    assert not list(tmp_path.iterdir())


def test_inputs_that_the_network_does_not_take_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't run on inputs of shapes \[\(2, 5\)\]"):
        to_onnx(nn.Linear(4, 2), (torch.ones(1, 5),), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    with pytest.raises(InputError):
        to_onnx(Untraceable(), (torch.ones(1, 4),), path)
    assert path.read_bytes() == b"before"
    to_onnx(nn.Linear(4, 2), (torch.ones(1, 4),), path)
    assert first_dimension(path) == "batch"


@pytest.mark.parametrize("folder", ["/proc", "/nowhere/at/all"])
def test_a_folder_that_takes_no_file_is_an_output_error(folder: str) -> None:
    with pytest.raises(OutputError, match=r"'model\.onnx' can't be written"):
        to_onnx(nn.Linear(4, 2), (torch.ones(1, 4),), Path(folder) / "model.onnx")


@pytest.mark.parametrize("exporter", ["auto", "legacy", "dynamo"])
def test_a_disk_that_runs_full_leaves_nothing(tmp_path: Path, exporter: Exporter) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutputError, match="can't be written"):
            to_onnx(nn.Linear(64, 64), (torch.ones(1, 64),), tmp_path / "model.onnx", exporter=exporter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [3, 99])
def test_an_opset_that_is_not_to_be_had_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], opset: int
) -> None:
    """The tracer prints its graph from C++ before it raises; that must not land in a JSON document."""
    os.write(1, b"before\n")
    with pytest.raises(InputError, match=rf"can't be exported to ONNX \(legacy: .*opset.*{opset}.*dynamo: "):
        to_onnx(TinyConvBN(), IMAGES, tmp_path / "model.onnx", opset=opset)
    assert not list(tmp_path.iterdir())
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("before\nafter\n", "")


@pytest.mark.parametrize("exporter", ["auto", "dynamo"])
def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str], exporter: Exporter) -> None:
    to_onnx(ByShape(), (torch.ones(1, 4),), tmp_path / "model.onnx", exporter=exporter)
    assert capfd.readouterr() == ("", "")


def test_save_onnx_writes_model_onnx(tmp_path: Path) -> None:
    class Result:
        model = nn.Linear(4, 2)
        example_inputs = (torch.ones(1, 4),)

    assert save_onnx(Result(), tmp_path, opset=18).path == tmp_path / "model.onnx"
    assert check_onnx(Result.model, tmp_path / "model.onnx", (torch.randn(7, 4),)).passed


class Decoder(nn.Module):
    """Returns its keys in a cache, as decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, object]:
        keys = self.keys(x)
        return self.head(keys), KeyCache(keys)


class KeyCache:
    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


def test_a_cache_stays_out_of_the_file(tmp_path: Path) -> None:
    model, x = Decoder(), torch.randn(7, 4)
    written = to_onnx(model, (x,), tmp_path / "model.onnx", exporter="legacy")
    assert written.output_names == ("output_0",)
    assert check_onnx(model, written.path, (x,)).passed
