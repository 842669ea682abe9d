from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from structprune.errors import InputError, UsageError
from structprune.models import Architecture, architecture, read
from structprune.models.architecture import build_on_meta
from structprune.models.definitions import cifar_resnet20, mlp
from structprune.models.identify import identify, mismatch, num_classes, shapes_of

State = dict[str, Tensor]


def _resnet18_state() -> State:
    state: State = torchvision.models.resnet18(num_classes=7).state_dict()
    return state


def _save_npz(state: State, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, **{name: tensor.numpy() for name, tensor in state.items()})  # type: ignore[arg-type]


WRITERS: dict[str, Callable[[State, Path], None]] = {
    "plain.pt": torch.save,
    "wrapped.pth": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "model.bin": lambda state, path: torch.save({"model": state, "optimizer": {}}, path),
    "deep.pt": lambda state, path: torch.save(
        {"model_state_dict": {"module." + k: v for k, v in state.items()}}, path
    ),
    "compiled.pt": lambda state, path: torch.save(
        {"_orig_mod.module." + k: v for k, v in state.items()}, path
    ),
    "model.safetensors": save_file,
    "misnamed.pt": save_file,
    "model.npz": _save_npz,
    "old.pt": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "half.pt": lambda state, path: torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_state_dicts_are_recognised_in_every_form(name: str, tmp_path: Path) -> None:
    state = _resnet18_state()
    WRITERS[name](state, tmp_path / name)
    network = read(str(tmp_path / name))
    assert network.architecture == Architecture("torchvision:resnet18", {"num_classes": 7})
    assert (network.name, network.from_checkpoint) == (Path(name).stem, True)
    loaded = network.model.state_dict()
    tolerance = 1e-3 if name == "half.pt" else 0.0
    assert all(
        torch.allclose(loaded[key].float(), state[key].float(), atol=tolerance, rtol=tolerance)
        for key in state
    )
    assert {tensor.dtype for tensor in network.model.parameters()} == {torch.float32}
    assert any("float16" in note for note in network.notes) == (name == "half.pt")


def test_reading_leaves_the_random_state(tmp_path: Path) -> None:
    torch.save(_resnet18_state(), tmp_path / "model.pt")
    before = torch.get_rng_state()
    read(str(tmp_path / "model.pt"))
    assert torch.equal(torch.get_rng_state(), before)


def test_published_weights_are_recognised(shared_data: Path) -> None:
    for depth in (20, 32, 44):
        network = read(str(shared_data / f"cifar10_resnet{depth}.safetensors"))
        expected = Architecture(f"structprune:cifar_resnet{depth}", {"num_classes": 10, "shortcut": "pad"})
        assert network.architecture == expected
        assert network.input_shape == (3, 32, 32)
        # The file has no counters, and its statistics are trained.
        assert int(network.model.get_buffer("bn1.num_batches_tracked")) == 1


def test_missing_counters_of_an_untrained_network_are_zero(tmp_path: Path) -> None:
    state = {k: v for k, v in cifar_resnet20().state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "model.pt")
    assert int(read(str(tmp_path / "model.pt")).model.get_buffer("bn1.num_batches_tracked")) == 0


def test_batch_norm_buffers_stay_as_stored(tmp_path: Path) -> None:
    model = cifar_resnet20()
    model.bn1.running_mean.fill_(3.0)  # type: ignore[union-attr]
    model.bn1.num_batches_tracked.fill_(41)  # type: ignore[union-attr]
    torch.save(model.state_dict(), tmp_path / "model.pt")
    loaded = read(str(tmp_path / "model.pt")).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "name",
    [
        "googlenet",
        "inception_v3",
        "regnet_y_400mf",
        "mobilenet_v2",
        "squeezenet1_0",
        "densenet121",
        "swin_t",
        "vit_b_16",
    ],
)
def test_torchvision_networks_are_identified_by_their_shapes(name: str) -> None:
    architecture = Architecture(f"torchvision:{name}", {"num_classes": 13})
    shapes = shapes_of(build_on_meta(architecture).state_dict())
    assert num_classes(shapes) == 13
    assert identify(shapes) == architecture


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("structprune:cifar_resnet56", {"num_classes": 3, "shortcut": "projection"}),
        Architecture("structprune:earlycrop_vgg16", {"num_classes": 100}),
        Architecture("structprune:mlp", {"num_classes": 2, "input_shape": [4], "hidden": [16, 8]}),
    ],
)
def test_our_networks_are_identified_by_their_shapes(architecture: Architecture) -> None:
    assert identify(shapes_of(build_on_meta(architecture).state_dict())) == architecture


def test_networks_on_meta_have_the_shapes_of_real_ones() -> None:
    real = torchvision.models.regnet_y_400mf(num_classes=3)
    meta = build_on_meta(Architecture("torchvision:regnet_y_400mf", {"num_classes": 3}))
    assert mismatch(meta, shapes_of(real.state_dict())) is None
    assert all(parameter.is_meta for parameter in meta.parameters())


def test_a_state_dict_that_fits_nothing_names_the_nearest(tmp_path: Path) -> None:
    state = _resnet18_state()
    state["layer1.0.conv1.weight"] = torch.zeros(60, 64, 3, 3)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"odd.pt: .*torchvision:resnet18, where 1 differ") as caught:
        read(str(tmp_path / "odd.pt"))
    assert "layer1.0.conv1.weight is [60, 64, 3, 3], the network has [64, 64, 3, 3]" in str(caught.value)


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


def test_arch_says_what_a_state_dict_belongs_to(tmp_path: Path, factory: str) -> None:
    torch.save(_resnet18_state(), tmp_path / "a.pt")
    assert read("a.pt", arch="resnet18").architecture == Architecture(
        "torchvision:resnet18", {"num_classes": 7}
    )
    with pytest.raises(InputError, match=r"a\.pt does not fit torchvision:resnet34: .* is missing"):
        read("a.pt", arch="resnet34")
    torch.save(read(factory).model.state_dict(), tmp_path / "b.pt")
    assert read("b.pt", arch=factory).architecture == Architecture("factory:" + factory)


def test_a_pickled_network_is_read_whole(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=7).eval()
    torch.save({"epoch": 1, "model": model}, tmp_path / "whole.pt")
    network = read(str(tmp_path / "whole.pt"))
    x = torch.randn(2, 3, 32, 32)
    assert network.architecture == Architecture("torchvision:resnet18", {"num_classes": 7})
    assert torch.equal(network.model.eval()(x), model(x))


def test_a_pickled_network_of_another_make_has_no_architecture(tmp_path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=7)
    model.maxpool = nn.Identity()  # the same weights, another network
    torch.save(model, tmp_path / "whole.pt")
    network = read(str(tmp_path / "whole.pt"))
    assert network.architecture is None
    assert isinstance(network.model.get_submodule("maxpool"), nn.Identity)
    assert network.input_shape_assumed


def test_a_perceptron_knows_its_features(tmp_path: Path) -> None:
    torch.save(mlp(2, input_shape=(4,), hidden=(8,)).state_dict(), tmp_path / "policy.pt")
    network = read(str(tmp_path / "policy.pt"))
    assert (network.input_shape, network.input_shape_assumed) == ((4,), False)
    torch.save(nn.Sequential(nn.Linear(6, 2), nn.Tanh()), tmp_path / "other.pt")
    assert read(str(tmp_path / "other.pt")).input_shape == (6,)


def test_pretrained_and_a_file_exclude_each_other(tmp_path: Path) -> None:
    torch.save(_resnet18_state(), tmp_path / "a.pt")
    with pytest.raises(UsageError, match="brings its own"):
        read(str(tmp_path / "a.pt"), pretrained=True)


def test_what_an_import_makes_has_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factory that imports its library when it is called, as large libraries are."""
    library = "import torch\nclass Head(torch.nn.Linear):\n    anchors = torch.empty(0)\n"
    (tmp_path / "lazy_library.py").write_text(library)
    (tmp_path / "lazy_factory.py").write_text(
        "def network():\n    import lazy_library\n    return lazy_library.Head(4, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    network = build_on_meta(Architecture("factory:lazy_factory:network"), trust_factory=True)
    assert not any(x.is_meta for x in (*network.parameters(), network.anchors))


def test_what_an_import_makes_has_memory_while_a_network_is_built_on_meta(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "late_library.py").write_text("import torch\ntable = torch.empty(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(architecture, "build", lambda *_, **__: importlib.import_module("late_library"))
    library = architecture.build_on_meta(Architecture("torchvision:resnet18"))
    assert not library.table.is_meta
