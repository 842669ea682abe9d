"""Files that hold no network: one sentence, the exit code, and nothing on disk."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from structprune.models.definitions import mlp
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


def _superscript(path: Path) -> None:
    torch.save({"layer1.².weight": torch.zeros(2, 2), "fc.².weight": torch.zeros(2, 2)}, path)


def _with_program(program: bytes) -> Callable[[Path], None]:
    """A torch file whose pickle is another, packed."""

    def make(path: Path) -> None:
        torch.save({"w": torch.zeros(2)}, path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, program if name.endswith("data.pkl") else content)

    return make


def _holding_itself(path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module._modules["me"] = module
    torch.save(module, path)


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
    "pipe.pt": (os.mkfifo, ("pipe.pt", "named pipe")),
    "device.pt": (lambda path: path.symlink_to("/dev/zero"), ("device.pt", "a device")),
    "program.pt": (_with_program(b"\x80\x02" + b"N0" * 20_000_000 + b"N."), ("program.pt", "40 MB")),
    "string.pt": (
        _with_program(b"\x80\x02X" + (10**8).to_bytes(4, "little") + b"a" * 10**8 + b"."),
        ("string.pt", "100 MB"),
    ),
    "array.pt": (
        _with_program(b"\x80\x02}X\x01\0\0\0actorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85Rs."),
        ("array.pt", "torch.FloatTensor"),
    ),
    "meta.pt": (lambda path: torch.save(mlp().to("meta").state_dict(), path), ("meta.pt", "meta device")),
    "float8.pt": (
        lambda path: torch.save({"w": torch.zeros(2, 2).to(torch.float8_e5m2)}, path),
        ("float8.pt", "float8_e5m2", "float32"),
    ),
    "expanded.pt": (
        lambda path: torch.save({"w": torch.zeros(16).expand(128_000_000, 16)}, path),
        ("expanded.pt", "8.19 GB"),
    ),
    "itself.pt": (_holding_itself, ("itself.pt", "holds itself")),
    "superscript.pt": (_superscript, ("superscript.pt", "of 2 keys fit", "yourpackage.module:YourClass")),
    "nan.pt": (_not_finite(float("nan")), ("nan.pt", "NaN")),
    "inf.pt": (_not_finite(float("inf")), ("inf.pt", "infinite")),
}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize("name", BAD)
def test_a_file_without_a_usable_network(name: str, verb: tuple[str, ...], cli: Command, here: Path) -> None:
    make, words = BAD[name]
    make(here / name)
    before = contents(here)
    code = 5 if name == "array.pt" else 1
    cli(verb[0], name, *verb[1:]).refused(code, *words)
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


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_inputs_from_a_pipe_or_of_a_claimed_size(ending: str, cli: Command, here: Path) -> None:
    os.mkfifo(here / f"pipe.{ending}")
    cli("inspect", "structprune:mlp", "--input", f"pipe.{ending}").refused(1, "pipe", "named pipe")
    claimed = np.lib.format.open_memmap(here / "large.npy", "w+", np.float32, (2, 1, 28, 28))
    del claimed
    (here / "large.npy").write_bytes((here / "large.npy").read_bytes()[:-4])
    cli("inspect", "structprune:mlp", "--input", "large.npy").refused(1, "large.npy", "cut short")


def test_a_profile_and_a_report_from_a_pipe(cli: Command, here: Path) -> None:
    os.mkfifo(here / "pipe.json")
    cli("report", "pipe.json").refused(1, "pipe.json", "named pipe")
    options = ("--nodes", 0.3, "--align", "auto", "--profile", "pipe.json")
    cli("compress", "structprune:mlp", *options).refused(1, "pipe.json", "named pipe")


def test_averages_come_first_and_no_ema_takes_the_others(cli: Command, here: Path) -> None:
    wide, narrow = mlp(hidden=(9,)).state_dict(), mlp(hidden=(5,)).state_dict()
    torch.save({"state_dict": narrow, "state_dict_ema": wide}, here / "both.pt")
    averaged = cli("inspect", "both.pt", "--json").done().document
    trained = cli("inspect", "both.pt", "--no-ema", "--json").done().document
    assert (averaged["nodes"], trained["nodes"]) == (9, 5)
    assert [any("state_dict_ema" in note for note in seen["notes"]) for seen in (averaged, trained)] == [
        True,
        False,
    ]


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
