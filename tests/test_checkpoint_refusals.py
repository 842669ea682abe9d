from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from structprune.errors import InputError, StructpruneError, UnsafeCheckpointError
from structprune.models.definitions import cifar_resnet20
from structprune.models.results import PLAN, WEIGHTS, load

from .cut_by_hand import resnet18_folder


@pytest.fixture
def dense() -> nn.Module:
    model: nn.Module = torchvision.models.resnet18(num_classes=7).eval()
    return model


@pytest.fixture
def folder(tmp_path: Path, dense: nn.Module) -> Path:
    return resnet18_folder(tmp_path / "result", dense)


# Bad folders ----------------------------------------------------------------------------------------------

Fields = dict[str, Any]


def _set(*path: Any, value: Any) -> Callable[[Fields], None]:
    def edit(fields: Fields) -> None:
        *above, last = path
        for key in above:
            fields = fields[key]
        fields[last] = value

    return edit


def _remove(*path: Any) -> Callable[[Fields], None]:
    def edit(fields: Fields) -> None:
        *above, last = path
        for key in above:
            fields = fields[key]
        del fields[last]

    return edit


GATE = ("gates", "layer1.0.conv1", "kept")
CONV = ("widths", "layer1.0.conv1", "out_channels")

EDITS: dict[str, tuple[Callable[[Fields], None], type[StructpruneError], str]] = {
    "foreign code": (_set("architecture", "source", value="os:system"), UnsafeCheckpointError, "os:system"),
    "foreign argument": (
        _set("architecture", "arguments", value={"weights": "DEFAULT"}),
        UnsafeCheckpointError,
        "'weights'",
    ),
    "huge argument": (
        _set("architecture", "arguments", "num_classes", value=10**15),
        InputError,
        "num_classes",
    ),
    "other classes": (
        _set("architecture", "arguments", "num_classes", value=6),
        InputError,
        r"fc\.out_features is 7.* only 6",
    ),
    "other network": (_set("architecture", "source", value="torchvision:resnet34"), InputError, "missing"),
    "no such network": (_set("architecture", "source", value="torchvision:os"), InputError, "'os'"),
    "wrong width": (_set(*CONV, value=21), InputError, r"gate layer1\.0\.conv1 is 22, .* width 21"),
    "wider than before": (_set(*CONV, value=65), InputError, r"out_channels is 65.* only 64"),
    "absurd width": (_set(*CONV, value=10**30), InputError, r"layer1\.0\.conv1\.out_channels"),
    "zero width": (_set(*CONV, value=0), InputError, r"layer1\.0\.conv1\.out_channels is 0"),
    "negative width": (_set(*CONV, value=-22), InputError, "out_channels is -22"),
    "width as text": (_set(*CONV, value="22"), InputError, "out_channels is '22'"),
    "width as truth": (_set(*CONV, value=True), InputError, "out_channels is True"),
    "uneven groups": (_set("widths", "layer1.0.conv1", "groups", value=1.5), InputError, "groups is 1.5"),
    "dense width": (
        _set("dense_widths", "fc", "out_features", value=9),
        InputError,
        "dense width fc.out_features",
    ),
    "strange layer": (_set("widths", "evil", value={"out_channels": 3}), InputError, "evil.out_channels"),
    "strange attribute": (_set("widths", "fc", "forward", value=3), InputError, "fc.forward"),
    "missing layer": (_remove("widths", "layer2.0.conv1"), InputError, r"layer2\.0\.conv1.* is missing"),
    "gate of another size": (_set(*GATE[:2], "size", value=80), InputError, r"gate layer1\.0\.conv1 is 80"),
    "index out of range": (_set(*GATE, 21, value=64), InputError, "layer1.0.conv1.kept is 64"),
    "negative index": (_set(*GATE, 0, value=-1), InputError, "layer1.0.conv1.kept is -1"),
    "index twice": (_set(*GATE, 1, value=0), InputError, "increasing"),
    "index as fraction": (_set(*GATE, 1, value=0.5), InputError, "layer1.0.conv1.kept is 0.5"),
    "nothing kept": (_set(*GATE, value=[]), InputError, "at least one"),
    "absurd shape": (_set("tensors", "fc.weight", 1, value=[2**30, 2**30]), InputError, "fc.weight"),
    "wrong rank": (_set("tensors", "fc.weight", 1, value=[7]), InputError, r"fc\.weight is \[7\]"),
    "wrong type": (_set("tensors", "fc.weight", 0, value="I64"), InputError, "fc.weight is of type I64"),
    "other precision": (_set("tensors", "fc.weight", 0, value="F16"), InputError, "fc.weight is F32"),
    "missing tensor": (_remove("tensors", "fc.bias"), InputError, "fc.bias.* missing"),
    "extra tensor": (_set("tensors", "spare", value=["F32", [1], 0]), InputError, "spare.* unknown"),
    "alias to nowhere": (_set("aliases", "fc.bias", value="nowhere"), InputError, "nowhere"),
    "wrong checksum": (_set("tensors", "fc.bias", 2, value=1), InputError, "fc.bias.*swapped or altered"),
    "missing field": (_remove("gates"), InputError, "'gates'"),
    "future schema": (_set("schema", value=99), InputError, "schema 99"),
    "gates as list": (_set("gates", value=[]), InputError, "a table"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_plan_that_lies_is_refused(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit, error, words = EDITS[name]
    fields = json.loads((folder / PLAN).read_text())
    edit(fields)
    (folder / PLAN).write_text(json.dumps(fields))
    largest = _watch_allocations(monkeypatch)
    modules = set(sys.modules)
    with pytest.raises(error, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert set(sys.modules) - modules == set()
    if name != "wrong checksum":  # the one that is found while reading
        assert largest() < 10_000


def _watch_allocations(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the entries of the largest tensor that is made with memory, other than on meta."""
    sizes = [0]
    kept = {name: getattr(torch, name) for name in ("empty", "zeros", "ones")}

    def watched(name: str) -> Callable[..., Tensor]:
        def make(*args: Any, **kwargs: Any) -> Tensor:
            tensor: Tensor = kept[name](*args, **kwargs)
            sizes.append(0 if tensor.is_meta else tensor.numel())
            return tensor

        return make

    from structprune.models import architecture

    creators = frozenset(kept.values()) | architecture._OnMeta.CREATORS
    monkeypatch.setattr(architecture._OnMeta, "CREATORS", creators)
    for name in kept:
        monkeypatch.setattr(torch, name, watched(name))
    return lambda: max(sizes)


def test_the_allocation_watch_sees_a_real_network(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = _watch_allocations(monkeypatch)
    nn.Linear(200, 100)
    assert largest() == 20_000


def _edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def _swap(tensors: dict[str, Tensor], one: str, other: str) -> None:
    tensors[one], tensors[other] = tensors[other], tensors[one]


TENSOR_EDITS: dict[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "missing": (lambda tensors: tensors.__delitem__("fc.bias"), "fc.bias.* missing"),
    "extra": (lambda tensors: tensors.__setitem__("spare", torch.zeros(2)), "spare.* unknown"),
    "shape": (lambda tensors: tensors.__setitem__("fc.bias", torch.zeros(8)), r"fc.bias is F32 \[8\]"),
    "type": (lambda tensors: tensors.__setitem__("fc.bias", torch.zeros(7).half()), r"fc.bias is F16 \[7\]"),
    "swapped": (
        lambda tensors: _swap(tensors, "layer1.1.conv1.weight", "layer1.1.conv2.weight"),
        r"layer1\.1\.conv\d\.weight is not the tensor .* swapped or altered",
    ),
    "swapped shapes": (
        lambda tensors: _swap(tensors, "conv1.weight", "fc.weight"),
        r"conv1\.weight is F32 \[7, 512\]",
    ),
}


@pytest.mark.parametrize("name", TENSOR_EDITS)
def test_weights_that_do_not_match_the_plan_are_refused(name: str, folder: Path) -> None:
    edit, words = TENSOR_EDITS[name]
    _edit_tensors(folder, edit)
    with pytest.raises(InputError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / PLAN).write_text("{"), "is no JSON"),
        (lambda folder: (folder / PLAN).write_text("[" * 100_000), "is no JSON"),
        (lambda folder: (folder / PLAN).write_bytes(b"\xff\xfe{}"), "is no JSON"),
        (lambda folder: (folder / PLAN).write_text("[1]"), "schema 'list'"),
        (lambda folder: (folder / PLAN).unlink(), r"folder without a plan\.json"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"model\.safetensors can't be read"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b""), r"model\.safetensors can't be read"),
        (
            lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
            "can't be read",
        ),
    ],
)
def test_damaged_folders(spoil: Callable[[Path], object], words: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=words):
        load(folder)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder with a plan\.json"):
        load(tmp_path / "nowhere")


def test_another_network_than_the_unpruned_one_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="fc"):
        load(folder, model=cifar_resnet20())


def test_a_plan_is_json_without_nan(folder: Path) -> None:
    fields = json.loads((folder / PLAN).read_text())
    assert fields["gates"]["layer1.0.conv1"] == {"kept": list(range(0, 64, 3)), "size": 64}
    assert fields["widths"]["layer1.0.conv2"] == {"in_channels": 22, "out_channels": 64, "groups": 1}
    assert fields["dense_widths"]["layer1.0.conv2"]["in_channels"] == 64
    assert math.isclose(fields["reached"], 0.0125)
