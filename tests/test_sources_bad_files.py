from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from structprune.errors import InputError, UnsafeCheckpointError
from structprune.models import read

from .networks import TinyConvBN

State = dict[str, Tensor]


def _resnet18_state() -> State:
    state: State = torchvision.models.resnet18(num_classes=7).state_dict()
    return state


def _truncated(path: Path) -> None:
    torch.save(_resnet18_state(), path)
    path.write_bytes(path.read_bytes()[:100_000])


def _truncated_safetensors(path: Path) -> None:
    save_file(_resnet18_state(), path)
    path.write_bytes(path.read_bytes()[:100_000])


def _nan(path: Path) -> None:
    state = _resnet18_state()
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, path)


def _infinite_module(path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=7)
    model.fc.bias.data[2] = float("inf")
    torch.save(model, path)


def _torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit's days are numbered, and users' files remain
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))  # type: ignore[no-untyped-call]


def _exported(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


def _onnx(path: Path) -> None:
    from onnx import TensorProto, helper, save_model

    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    save_model(helper.make_model(graph, producer_name="pytorch"), str(path))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.pt": (Path.touch, "is empty"),
    "text.pt": (lambda path: path.write_text("I am no checkpoint.\nÄ\n" * 500), "text file"),
    "noise.pt": (lambda path: path.write_bytes(b"\xff\x00\x13" * 999), "no kind that structprune knows"),
    "cut.pt": (_truncated, "damaged or cut short"),
    "cut.safetensors": (_truncated_safetensors, "damaged or cut short"),
    "nan.pt": (_nan, r"1 of 73728 values of layer2\.0\.conv1\.weight are NaN"),
    "inf.pt": (_infinite_module, r"1 of 7 values of fc\.bias"),
    "script.pt": (_torchscript, "TorchScript file.*state dict"),
    "program.pt2": (_exported, "exported program.*state dict"),
    "model.onnx": (_onnx, "ONNX file.*PyTorch network"),
    "onnx_in_disguise.pt": (_onnx, "ONNX file.*PyTorch network"),
    "a_folder": (Path.mkdir, r"without a plan\.json"),
    "tensor.pt": (lambda path: torch.save(torch.zeros(3), path), "holds a Tensor"),
    "numbers.pt": (lambda path: torch.save({"epoch": 3}, path), "'epoch', a int"),
    "nothing.pt": (lambda path: torch.save({}, path), "holds nothing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_each_get_a_true_sentence(name: str, tmp_path: Path) -> None:
    write, sentence = BAD[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=sentence) as caught:
        read(str(tmp_path / name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_pickled_arrays_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", weight=np.array([TinyConvBN()], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafeCheckpointError, match="pickled objects"):
        read(str(tmp_path / "evil.npz"))
