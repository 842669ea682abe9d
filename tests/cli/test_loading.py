"""Networks that come in: result folders that were tampered with, and files that are fine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import structprune
from structprune.errors import InputError, StructpruneError, UnsafeCheckpointError
from structprune.models.definitions import mlp
from tests.cli.command import Command, contents
from tests.cli.networks import QUICK, save_mlp


def _in_plan(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        path = folder / "plan.json"
        plan = json.loads(path.read_text())
        change(plan)
        path.write_text(json.dumps(plan))

    return tamper


def _in_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return tamper


def _source(name: str) -> Callable[[Path], None]:
    return _in_plan(lambda plan: plan["architecture"].update(source=name))


def _swap_rows(tensors: dict[str, torch.Tensor]) -> None:
    tensors["1.weight"] = tensors["1.weight"].flip(0).contiguous()


def _first_gate(plan: Any) -> Any:
    return next(iter(plan["gates"].values()))


TAMPERED: dict[str, tuple[Callable[[Path], object], type[StructpruneError], tuple[str, ...]]] = {
    "os:system": (_source("os:system"), UnsafeCheckpointError, ("os:system",)),
    "a module of somebody's": (_source("evil:network"), UnsafeCheckpointError, ("evil:network",)),
    "a factory": (_source("factory:evil:network"), UnsafeCheckpointError, ("evil:network",)),
    "another network": (_source("structprune:cifar_resnet20"), InputError, ()),
    "a wrong width": (
        _in_plan(lambda plan: plan["widths"]["1"].update(out_features=99)),
        InputError,
        ("plan.json", "99"),
    ),
    "a giant width": (
        _in_plan(lambda plan: plan["widths"]["1"].update(out_features=10**12)),
        InputError,
        ("plan.json", "1"),
    ),
    "an index out of range": (
        _in_plan(lambda plan: _first_gate(plan)["kept"].__setitem__(-1, 4096)),
        InputError,
        ("plan.json", "4096"),
    ),
    "a missing tensor": (_in_weights(lambda tensors: tensors.pop("3.bias")), InputError, ("3.bias",)),
    "a swapped tensor": (_in_weights(_swap_rows), InputError, ("1.weight",)),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        InputError,
        ("model.safetensors",),
    ),
    "text for a plan": (lambda folder: (folder / "plan.json").write_text("{"), InputError, ("plan.json",)),
}

EVIL = "from pathlib import Path\nPath('it ran').touch()\n"


@pytest.mark.parametrize("kind", TAMPERED)
def test_a_result_that_was_tampered_with(kind: str, result: Path, cli: Command, here: Path) -> None:
    tamper, error, words = TAMPERED[kind]
    (here / "evil.py").write_text(EVIL)
    tamper(result)
    before = contents(here)
    for verb in ("inspect", "measure", "export"):
        cli(verb, "result").refused(error.exit_code, *words)
    with pytest.raises(error):
        structprune.load(result)
    assert "evil" not in sys.modules
    assert contents(here) == before


def test_a_good_result_is_what_was_written(result: Path, cli: Command) -> None:
    document = cli("inspect", "result", "--json").done().document
    assert document["nodes"] == 128
    report = json.loads((result / "report.json").read_text())
    assert sum(group["size"] for group in document["groups"]) == report["nodes"]["after"]
    assert sum(p.numel() for p in structprune.load(result).parameters()) == report["parameters"]["after"]


def test_a_network_of_the_users_own(cli: Command, here: Path) -> None:
    size = ("--input-size", 3, 8, 8)
    cli("compress", "tiny:network", "--nodes", 0.5, *size, *QUICK, "-o", "result").done()
    # The folder names the factory, but only the user's word gets it imported.
    cli("inspect", "result").refused(5, "tiny:network")
    assert cli("inspect", "result", "--arch", "tiny:network", "--json").done().document["nodes"] == 10
    beside = ("measure", "tiny:network", "result", "--arch", "tiny:network", *size)
    rows = cli(*beside, "--energy-seconds", 0.1, "--measure-batch", 1, "--json").done().document["networks"]
    assert [row["model"] for row in rows] == ["network", "result"]


def test_a_whole_pickled_network(cli: Command, here: Path) -> None:
    from torchvision.models import resnet18

    torch.save(resnet18(num_classes=10), here / "whole.pt")
    run = ("compress", "whole.pt", "--nodes", 0.89, "--input-size", 3, 32, 32)
    document = cli(*run, *QUICK, "--json").done().document
    assert (document["model"], document["nodes"]["before"]) == ("whole", 4800)
    assert document["nodes"]["removed"] == pytest.approx(0.89, abs=0.002)
    untouched = {layer for layer, (before, after) in document["widths"].items() if before == after}
    assert untouched == {row["layer"] for row in document["protected"]} == {"fc"}
    small = structprune.load(here / "whole-nodes0.89")
    assert sum(p.numel() for p in small.parameters()) == document["parameters"]["after"]


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_state_dict(wrap: Callable[[Any], Any], cli: Command, here: Path) -> None:
    torch.save(wrap(mlp().state_dict()), here / "good.pt")
    assert cli("inspect", "good.pt", "--json").done().document["nodes"] == 256


def test_a_state_dict_of_the_users_own_network(
    cli: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(here)
    import tiny  # type: ignore[import-not-found]

    torch.save(tiny.network().state_dict(), here / "own.pt")
    arch = ("--arch", "tiny:network", "--input-size", 3, 8, 8)
    assert cli("inspect", "own.pt", *arch, "--json").done().document["nodes"] == 20


def test_the_same_network_as_safetensors(cli: Command, here: Path) -> None:
    save_mlp(here / "a.pt")
    save_file(torch.load(here / "a.pt", weights_only=True), here / "a.safetensors")
    options = ("--score", "magnitude", "--json")
    pickled, plain = (cli("score", name, *options).done().document for name in ("a.pt", "a.safetensors"))
    assert pickled["scores"] == plain["scores"]
