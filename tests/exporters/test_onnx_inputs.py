from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from exporters.runtime.onnx_inputs import EXAMPLES, check_inputs, random_inputs
from exporters.to_onnx import to_onnx
from structprune.errors import InputError


def written(path: Path, kind: int, shape: list[int | str]) -> Path:
    entry = helper.make_tensor_value_info("x", kind, shape)
    done = helper.make_tensor_value_info("y", kind, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "given", [entry], [done])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_file_of_ours_says_its_size_and_leaves_the_batch_open(tmp_path: Path) -> None:
    path = to_onnx(nn.Conv2d(3, 4, 3), (torch.ones(1, 3, 6, 7),), tmp_path / "model.onnx").path
    (x,) = random_inputs(path, seed=1)
    assert x.shape == (EXAMPLES, 3, 6, 7)
    assert torch.equal(x, random_inputs(path, seed=1)[0])
    assert not torch.equal(x, random_inputs(path, seed=2)[0])


def test_a_size_that_is_open_must_be_given(tmp_path: Path) -> None:
    path = written(tmp_path / "open.onnx", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    assert random_inputs(path, (3, 5, 4))[0].shape == (EXAMPLES, 3, 5, 4)
    with pytest.raises(InputError, match=r"open\.onnx leaves the size of 'x' open.*example_input"):
        random_inputs(path)
    with pytest.raises(InputError, match=r"'x' open: \(any,\); give input=FILE"):
        random_inputs(written(tmp_path / "ids.onnx", TensorProto.INT64, ["batch", "length"]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), r"takes inputs of sizes \(3, any, 4\); got "),
        ((torch.ones(2, 3, 4, 4),) * 2, r"got \(3, 4, 4\) and \(3, 4, 4\)"),
        ((torch.ones(2, 3, 4, 5),), r"got \(3, 4, 5\)"),
        ((torch.ones(2, 3),), r"got \(3,\)"),
        ((torch.ones(2, 3, 4, 4, dtype=torch.int64),), r"takes tensor\(float\) as 'x'; got torch.int64"),
    ],
)
def test_inputs_that_a_file_does_not_take(
    tmp_path: Path, given: tuple[torch.Tensor, ...], words: str
) -> None:
    path = written(tmp_path / "open.onnx", TensorProto.FLOAT, ["batch", 3, "height", 4])
    check_inputs(path, (torch.ones(2, 3, 9, 4),))
    with pytest.raises(InputError, match=words):
        check_inputs(path, given)


def test_whole_numbers_are_drawn_where_they_are_asked_for_and_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    (ids,) = random_inputs(written(tmp_path / "ids.onnx", TensorProto.INT64, [2, 5]))
    assert (ids.dtype, ids.shape) == (torch.int64, (2, 5))
    assert set(ids.flatten().tolist()) <= {0, 1}


def test_what_can_not_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes tensor\(string\) as 'x'"):
        random_inputs(written(tmp_path / "words.onnx", TensorProto.STRING, [1, 2]))
    with pytest.raises(InputError, match="no inputs with a batch dimension"):
        random_inputs(written(tmp_path / "scalar.onnx", TensorProto.FLOAT, []))
