from __future__ import annotations

import copy
import random
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from structprune.errors import InputError, UnsafeCheckpointError
from structprune.models import Architecture, read
from structprune.models.results import WEIGHTS, load, save_weights_and_plan, widths_of
from structprune.pruning.budget import Budget, Plan

from .cut_by_hand import KEEP, cut_inner, plan_of, resnet18_folder
from .networks import TinyConvBN


@pytest.fixture
def dense() -> nn.Module:
    model: nn.Module = torchvision.models.resnet18(num_classes=7).eval()
    return model


@pytest.fixture
def folder(tmp_path: Path, dense: nn.Module) -> Path:
    return resnet18_folder(tmp_path / "result", dense)


def test_a_cut_network_comes_back_and_trains_on(folder: Path, dense: nn.Module) -> None:
    cut, x = cut_inner(dense, "layer1.0", KEEP), torch.randn(2, 3, 32, 32)
    loaded = load(folder)
    assert torch.equal(loaded(x), cut(x))
    assert widths_of(loaded) == widths_of(cut)
    assert not any(module.training for module in loaded.modules())
    assert repr(loaded) == repr(cut)
    before = loaded.get_parameter("layer1.0.conv1.weight").clone()
    loaded.train()(x).square().mean().backward()
    torch.optim.SGD(loaded.parameters(), 0.1).step()
    assert not torch.equal(loaded.get_parameter("layer1.0.conv1.weight"), before)


def test_loading_leaves_the_random_state(folder: Path) -> None:
    states = torch.get_rng_state(), random.getstate()
    load(folder)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_a_result_folder_is_an_input(folder: Path) -> None:
    network = read(str(folder))
    assert (network.name, network.input_shape, network.input_shape_assumed) == ("my_net", (3, 32, 32), False)
    assert network.architecture == Architecture("torchvision:resnet18", {"num_classes": 7})
    assert network.from_checkpoint
    assert network.model.get_parameter("layer1.0.conv1.weight").shape == (22, 64, 3, 3)


def test_a_network_that_was_cut_twice_comes_back(folder: Path, tmp_path: Path) -> None:
    once = read(str(folder))
    keep = torch.arange(64) < 5
    twice = cut_inner(once.model, "layer1.1", keep)
    (tmp_path / "again").mkdir()
    widths = widths_of(once.model)
    plan = plan_of(keep, "layer1.1.conv1")
    save_weights_and_plan(
        tmp_path / "again", twice, plan, once.architecture, (3, 32, 32), dense_widths=widths
    )
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load(tmp_path / "again")(x), twice(x))


def test_a_network_of_the_users_own_is_cut_from_the_one_given(tmp_path: Path) -> None:
    dense = TinyConvBN().eval()
    cut = copy.deepcopy(dense)
    cut.head = nn.Linear(6, 2)
    save_weights_and_plan(
        tmp_path, cut, Plan({}, Budget(0.0), 0.0), None, (3, 8, 8), dense_widths=widths_of(dense)
    )
    before = copy.deepcopy(dense.state_dict())
    loaded, x = load(tmp_path, model=dense), torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(x), cut(x))
    assert dense.head.out_features == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    with pytest.raises(InputError, match="model="):
        load(tmp_path)


def test_shared_weights_are_saved_once_and_shared_again(tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    dense[2].weight = dense[0].weight
    save_weights_and_plan(
        tmp_path, dense, Plan({}, Budget(0.0), 0.0), None, (4,), dense_widths=widths_of(dense)
    )
    assert sorted(load_file(tmp_path / WEIGHTS)) == ["0.bias", "0.weight", "2.bias"]
    loaded = load(tmp_path, model=dense)
    assert loaded.get_parameter("0.weight") is loaded.get_parameter("2.weight")
    assert torch.equal(loaded(torch.ones(1, 4)), dense(torch.ones(1, 4)))


def test_all_our_layers_with_widths_come_back(tmp_path: Path) -> None:
    def network(width: int) -> nn.Module:
        return nn.ModuleList(
            [
                nn.ConvTranspose2d(width, 2 * width, 3, groups=2),
                nn.Conv1d(width, width, 3, groups=width),
                nn.GroupNorm(2, width),
                nn.LayerNorm(width),
                nn.PReLU(width),
                nn.Embedding(5, width),
                nn.GRU(width, width, bidirectional=True),
                nn.MultiheadAttention(width, 2),
            ]
        )

    cut, dense = network(4), network(8)
    save_weights_and_plan(
        tmp_path, cut, Plan({}, Budget(0.0), 0.0), None, (8,), dense_widths=widths_of(dense)
    )
    loaded = load(tmp_path, model=dense)
    assert repr(loaded) == repr(cut)
    assert all(torch.equal(tensor, cut.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    x = torch.randn(3, 1, 4)
    assert torch.equal(loaded.get_submodule("6")(x)[0], cut.get_submodule("6")(x)[0])


def test_a_factory_is_called_only_by_the_users_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "makers.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(3, 2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    model, result = nn.Linear(3, 2), tmp_path / "result"
    result.mkdir()
    architecture = Architecture("factory:makers:make")
    widths = widths_of(model)
    save_weights_and_plan(result, model, Plan({}, Budget(0.0), 0.0), architecture, (3,), dense_widths=widths)
    with pytest.raises(UnsafeCheckpointError, match="makers"):
        load(result)
    assert "makers" not in sys.modules
    assert torch.equal(load(result, trust_factory=True).get_parameter("weight"), model.weight)


def test_the_published_network_comes_back_cut(shared_data: Path, tmp_path: Path) -> None:
    network = read(str(shared_data / "cifar10_resnet20.safetensors"))
    keep = torch.arange(16) != 3
    cut = cut_inner(network.model.eval(), "layer1.0", keep)
    widths = widths_of(network.model)
    save_weights_and_plan(
        tmp_path,
        cut,
        plan_of(keep),
        network.architecture,
        (3, 32, 32),
        dense_widths=widths,
        name=network.name,
    )
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load(tmp_path)(x), cut(x))
