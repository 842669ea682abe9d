from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from structprune.errors import (
    InputError,
    StructpruneError,
    UnknownNameError,
    UnsafeCheckpointError,
    UsageError,
)
from structprune.models import Architecture, build, read
from structprune.models.architecture import factory_takes


@pytest.mark.parametrize(
    ("spec", "source", "shape", "assumed"),
    [
        ("squeezenet1_1", "torchvision:squeezenet1_1", (3, 224, 224), True),
        ("torchvision:resnet18", "torchvision:resnet18", (3, 224, 224), True),
        ("cifar_resnet20", "structprune:cifar_resnet20", (3, 32, 32), False),
        ("structprune:mlp", "structprune:mlp", (1, 28, 28), False),
    ],
)
def test_zoo_names(spec: str, source: str, shape: tuple[int, ...], assumed: bool) -> None:
    read_in = read(spec, num_classes=4)
    assert read_in.architecture == Architecture(source, {"num_classes": 4})
    assert (read_in.input_shape, read_in.input_shape_assumed) == (shape, assumed)
    assert read_in.name == source.partition(":")[2]
    assert (read_in.from_checkpoint, read_in.pretrained) == (False, False)
    with torch.no_grad():
        assert read_in.model.eval()(torch.randn(1, *shape)).shape == (1, 4)


def test_sizes_and_normalisation_are_the_architectures_own() -> None:
    network = read("cifar_resnet20")
    assert network.mean == (0.485, 0.456, 0.406)
    assert network.std == (0.229, 0.224, 0.225)
    assert read("structprune:mlp").mean == (0.0,)


@pytest.mark.parametrize(
    ("spec", "options", "error", "words"),
    [
        ("resnt18", {}, UnknownNameError, "did you mean resnet18"),
        ("torchvision:resnet19", {}, UnknownNameError, "resnet18"),
        ("missing.pt", {}, InputError, "there is no file missing.pt"),
        ("some/where", {}, InputError, "there is no file some/where"),
        ("resnet18", {"arch": "resnet18"}, UsageError, "arch="),
        ("resnet18", {"pretrained": True, "num_classes": 3}, UsageError, "pretrained="),
        ("cifar_resnet20", {"pretrained": True}, UsageError, "ships no weights"),
        ("no_such_package_of_mine:make", {}, InputError, "no_such_package_of_mine"),
        ("os:sep", {}, InputError, "os:sep failed"),
        ("os:getcwd", {}, InputError, "returned a str"),
    ],
)
def test_bad_names(spec: str, options: dict[str, Any], error: type[StructpruneError], words: str) -> None:
    with pytest.raises(error, match=words):
        read(spec, **options)


@pytest.mark.parametrize("package", ["timm", "transformers"])
def test_missing_extras_say_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"pip install 'structprune\[{package}\]'"):
        read(f"{package}:vit")


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder with a factory of a small network."""
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "def make(num_classes=3):\n"
        "    head = nn.Flatten(), nn.Linear(4, num_classes)\n"
        "    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), *head)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return "my_networks:make"


def test_a_factory_in_the_working_folder(factory: str) -> None:
    path = list(sys.path)
    network = read(factory, num_classes=5)
    assert network.architecture == Architecture("factory:my_networks:make", {"num_classes": 5})
    assert (network.name, network.input_shape, network.input_shape_assumed) == ("make", (2, 224, 224), True)
    assert network.model(torch.randn(1, 2, 8, 8)).shape == (1, 5)
    assert sys.path == path


def test_a_factory_says_what_it_takes(factory: str) -> None:
    assert factory_takes(factory, "num_classes")
    assert not factory_takes(factory, "width")
    assert not factory_takes("my_networks:nothing", "num_classes")
    assert not factory_takes("no_such_module:make", "num_classes")


def test_factories_are_built_only_when_trusted(factory: str) -> None:
    architecture = Architecture("factory:" + factory)
    with pytest.raises(UnsafeCheckpointError, match="trust_factory"):
        build(architecture)
    assert "my_networks" not in sys.modules
    assert isinstance(build(architecture, trust_factory=True), nn.Sequential)


@pytest.mark.parametrize(
    ("architecture", "error"),
    [
        (Architecture("os:system", {"command": "true"}), UnsafeCheckpointError),
        (Architecture("torchvision:models:resnet18"), UnsafeCheckpointError),
        (Architecture("torchvision:resnet18", {"weights": "DEFAULT"}), UnsafeCheckpointError),
        (Architecture("torchvision:no_such_net"), InputError),
        (Architecture("torchvision:resnet18", {"num_classes": 10**12}), InputError),
        (Architecture("torchvision:resnet18", {"num_classes": -1}), InputError),
        (Architecture("torchvision:resnet18", {"num_classes": "many"}), InputError),
        (Architecture("structprune:mlp", {"hidden": [10**12]}), InputError),
    ],
)
def test_architectures_from_strangers_are_refused(architecture: Architecture, error: type[Exception]) -> None:
    with pytest.raises(error):
        build(architecture)


def test_a_folder_named_like_a_network_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cifar_resnet20").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read("cifar_resnet20").architecture == Architecture("structprune:cifar_resnet20")
