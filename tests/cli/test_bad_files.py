"""Files that hold no network: one sentence, the exit code, and nothing on disk."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from structprune.models import mlp
from tests.cli.command import Command, contents
from tests.cli.networks import save_mlp

VERBS = (("compress", "--nodes", "0.3"), ("inspect",))


def _truncated(path: Path) -> None:
    save_mlp(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)  # type: ignore[no-untyped-call]


def _onnx(path: Path) -> None:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", [x], [y])
    path.write_bytes(helper.make_model(graph).SerializeToString())


def _not_finite(value: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        network = mlp()
        with torch.no_grad():
            next(network.parameters())[0, 0] = value
        torch.save(network.state_dict(), path)

    return make


BAD: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "empty.pt": (lambda path: path.touch(), ("empty.pt", "empty")),
    "truncated.pt": (_truncated, ("truncated.pt", "cut short")),
    "text.pt": (lambda path: path.write_text("to be a network\n" * 9), ("text.pt", "text file")),
    "noise.pt": (lambda path: path.write_bytes(bytes(range(255, 0, -1)) * 9), ("noise.pt", "cut short")),
    "truncated.safetensors": (
        lambda path: path.write_bytes(b"\x40\0\0\0\0\0\0\0{"),
        ("truncated.safetensors", "cut short"),
    ),
    "script.pt": (_torchscript, ("script.pt", "TorchScript", "state dict")),
    "network.onnx": (_onnx, ("network.onnx", "ONNX", "state dict")),
    "onnx.pt": (_onnx, ("onnx.pt", "ONNX", "state dict")),
    "stranger.pt": (
        lambda path: torch.save({"a.weight": torch.randn(2, 3), "a.bias": torch.randn(2)}, path),
        ("stranger.pt", "--arch"),
    ),
    "images.npz": (lambda path: np.savez(path, images=np.zeros((2, 4, 4, 3), np.uint8)), ("images.npz",)),
    "list.pt": (lambda path: torch.save([1, 2, 3], path), ("list.pt", "list")),
    "nan.pt": (_not_finite(float("nan")), ("nan.pt", "NaN")),
    "inf.pt": (_not_finite(float("inf")), ("inf.pt", "infinite")),
}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize("name", BAD)
def test_a_file_without_a_usable_network(name: str, verb: tuple[str, ...], cli: Command, here: Path) -> None:
    make, words = BAD[name]
    make(here / name)
    before = contents(here)
    cli(verb[0], name, *verb[1:]).refused(1, *words)
    assert contents(here) == before


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_file_that_is_not_there(verb: tuple[str, ...], cli: Command, here: Path) -> None:
    before = contents(here)
    cli(verb[0], "missing.pt", *verb[1:]).refused(1, "missing.pt")
    assert contents(here) == before


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_folder_that_is_no_result(verb: tuple[str, ...], cli: Command, here: Path) -> None:
    (here / "weights").mkdir()
    (here / "weights" / "model.pt").touch()
    before = contents(here)
    cli(verb[0], "weights", *verb[1:]).refused(1, "weights", "plan.json")
    assert contents(here) == before


def test_a_name_that_no_zoo_knows(cli: Command, here: Path) -> None:
    before = contents(here)
    cli("compress", "resnet81", "--nodes", 0.3).refused(2, "resnet81", "resnet18")
    assert contents(here) == before


def test_weights_of_another_architecture(cli: Command, here: Path) -> None:
    save_mlp(here / "mlp.pt")
    cli("inspect", "mlp.pt", "--arch", "structprune:cifar_resnet20").refused(1, "mlp.pt", "cifar_resnet20")


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def _raw_pickle(trap: Trap, path: Path) -> None:
    path.write_bytes(pickle.dumps(trap))


def _torch_file(trap: Trap, path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "extra": trap}, path)


def _old_torch_file(trap: Trap, path: Path) -> None:
    torch.save({"weight": trap}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [_raw_pickle, _torch_file, _old_torch_file])
def test_a_pickle_that_would_run_a_command_is_refused_and_not_run(
    save: Callable[[Trap, Path], None], cli: Command, here: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "it ran"
    save(Trap(marker), here / "trap.pt")
    before = contents(here)
    for verb in VERBS:
        cli(verb[0], "trap.pt", *verb[1:]).refused(5, "trap.pt", "system", "--trust-pickle")
    assert not marker.exists()
    assert contents(here) == before


def test_the_trap_is_set(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists()
