"""Which weights of a file are taken: behind any prefix, averages first, never one of several by chance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from structprune.errors import InputError
from structprune.models import read
from structprune.models.definitions import cifar_resnet20

State = dict[str, Tensor]


def _network(seed: int) -> nn.Module:
    """A resnet20 whose batch norms have statistics of their own."""
    torch.manual_seed(seed)
    network = cifar_resnet20(num_classes=3).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.rand_like(module.weight)
    return network


PLAIN, AVERAGE = _network(0), _network(1)
P, E = PLAIN.state_dict(), AVERAGE.state_dict()
PARAMETERS = [name for name, _ in AVERAGE.named_parameters()]
COUNT = torch.tensor(5)
OPTIMISER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


def behind(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def averaged_model(network: nn.Module) -> Mapping[str, Tensor]:
    state: Mapping[str, Tensor] = AveragedModel(network).state_dict()
    return state


def saved(content: object, folder: Path) -> str:
    torch.save(content, folder / "model.pt")
    return str(folder / "model.pt")


def same(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    own = model.state_dict()
    return set(own) == set(state) and all(torch.equal(own[name], state[name]) for name in state)


# Prefixes -------------------------------------------------------------------------------------------------

PREFIXED: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "architecture": (behind("architecture.", P), ()),
    "net": ({"state_dict": behind("net.", P), "epoch": 3, "optimizer_states": [OPTIMISER]}, ()),
    "three levels": (behind("trainer.net.backbone.", P), ()),
    "AveragedModel": (averaged_model(PLAIN), ("n_averaged",)),
    "a loss and a metric": (
        {**behind("model.", P), "criterion.weight": torch.ones(3), "metric.total": torch.zeros(())},
        ("criterion.weight", "metric.total"),
    ),
    "numbers": ({**P, "epoch": 4, "lr": 0.1}, ("epoch", "lr")),
    "a key of no meaning": ({"weights_of_monday": P, "rng_state": torch.get_rng_state()}, ()),
    "many beside": (
        {**behind("net.", P), **{f"meter{i}.sum": torch.zeros(1) for i in range(9)}},
        ("meter0.sum", "meter4.sum and 4 more"),
    ),
}


@pytest.mark.parametrize("case", PREFIXED)
def test_what_all_weights_have_in_front_is_removed(case: str, tmp_path: Path) -> None:
    content, beside = PREFIXED[case]
    network = read(saved(content, tmp_path))
    assert network.architecture is not None
    assert network.architecture.source == "structprune:cifar_resnet20"
    assert same(network.model, P)
    left = [note for note in network.notes if "left out" in note]
    assert len(left) == bool(beside)
    assert all(name in note for note in left for name in beside)


@pytest.fixture
def lit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A class whose weights all lie under ``model.``."""
    (tmp_path / "lit_networks.py").write_text(
        "from torch import nn\n"
        "class Lit(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))\n"
        "    def forward(self, x):\n"
        "        return self.model[2](self.model[1](self.model[0](x)).mean((2, 3)))\n"
    )
    monkeypatch.chdir(tmp_path)
    return "lit_networks:Lit"


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "module.net.", "teacher."])
def test_the_networks_own_prefix_is_no_hindrance(prefix: str, lit: str, tmp_path: Path) -> None:
    own = read(lit).model.state_dict()
    bare = {name.removeprefix("model."): tensor for name, tensor in own.items()}
    beside = {"loss.weight": torch.ones(2)} if prefix else {}
    content = {**behind(prefix, bare), **beside}
    assert same(read(saved(content, tmp_path), arch=lit).model, own)


def test_a_named_network_is_taken_from_beside_a_larger_one(lit: str, tmp_path: Path) -> None:
    own = read(lit).model.state_dict()
    network = read(saved({**own, **behind("teacher.", P)}, tmp_path), arch=lit)
    assert same(network.model, own)
    assert any("teacher.conv1.weight" in note for note in network.notes)


TWO = {
    "prefixes": ({**behind("student.", P), **behind("teacher.", E)}, r"'student\.' and 'teacher\.'"),
    "keys": ({"generator": P, "critic": E}, "'generator' and 'critic'"),
}


@pytest.mark.parametrize("case", TWO)
@pytest.mark.parametrize("arch", [None, "structprune:cifar_resnet20"])
def test_neither_of_two_networks_is_taken_by_chance(case: str, arch: str | None, tmp_path: Path) -> None:
    content, words = TWO[case]
    with pytest.raises(InputError, match=f"several networks, .*{words}"):
        read(saved(content, tmp_path), arch=arch)


def test_a_part_of_another_network_is_not_taken_for_it(tmp_path: Path) -> None:
    text = {f"text.{i}.weight": torch.ones(300, 500) for i in range(4)}
    keys = sum(not name.endswith("num_batches_tracked") for name in P)
    with pytest.raises(InputError, match=rf"{keys} of its {keys + 4} keys .*'visual\.'") as caught:
        read(saved({**behind("visual.", P), **text}, tmp_path))
    assert "arch=yourpackage.module:YourClass" in str(caught.value)


def test_where_nothing_fits_the_message_says_how_much_did(tmp_path: Path) -> None:
    state = {**P, "conv1.weight": torch.zeros(15, 3, 3, 3), "extra.weight": torch.zeros(2, 2)}
    keys = sum(not name.endswith("num_batches_tracked") for name in state)
    with pytest.raises(InputError) as caught:
        read(saved(behind("net.", state), tmp_path))
    message = str(caught.value)
    assert f"structprune:cifar_resnet20, where 2 differ and {keys - 2} of {keys} keys fit" in message
    assert "conv1.weight is [15, 3, 3, 3], the network has [16, 3, 3, 3]" in message
    assert "arch=yourpackage.module:YourClass" in message


def test_where_the_named_network_does_not_fit_it_says_so_too(lit: str, tmp_path: Path) -> None:
    state = {**read(lit).model.state_dict(), "model.0.weight": torch.zeros(5, 3, 3, 3)}
    with pytest.raises(
        InputError, match=r"does not fit factory:lit_networks:Lit: 1 differ and 7 of 8 keys fit"
    ):
        read(saved(state, tmp_path), arch=lit)


# Averages -------------------------------------------------------------------------------------------------

SHADOW = [E[name] for name in PARAMETERS]
ONLY_PARAMETERS = {name: E[name] for name in PARAMETERS}

AVERAGED: dict[str, tuple[Mapping[str, Any], str]] = {
    "timm": ({"state_dict": P, "state_dict_ema": E, "epoch": 1}, "state_dict_ema"),
    "torchvision": ({"model": P, "model_ema": averaged_model(AVERAGE), "optimizer": OPTIMISER}, "model_ema"),
    "modules": ({"model": PLAIN, "ema": AVERAGE, "updates": 4}, "ema"),
    "parallel": ({"model": nn.DataParallel(PLAIN), "ema_model": nn.DataParallel(AVERAGE)}, "ema_model"),
    "rt-detr": ({"ema": {"module": E, "updates": 3}, "model": P}, "ema.module"),
    "basicsr": ({"params": P, "params_ema": E}, "params_ema"),
    "keras-like": ({"model_state_dict": P, "ema_state_dict": behind("module.", E)}, "ema_state_dict"),
    "ema-pytorch": (
        {**behind("online_model.", P), **behind("ema_model.", E), "initted": COUNT, "step": COUNT},
        "ema_model",
    ),
    "in a lightning module": (
        {
            "state_dict": {
                **behind("net.", P),
                **behind("ema.online_model.", P),
                **behind("ema.ema_model.", E),
                "ema.step": COUNT,
            }
        },
        "state_dict.ema.ema_model",
    ),
    "a callback": ({"state_dict": P, "callbacks": {"EMACallback": {"ema_state_dict": E}}}, "EMACallback"),
    "lightning": (
        {"state_dict": E, "current_model_state": P, "averaging_state": {"n_averaged": COUNT}},
        "state_dict",
    ),
    "mmengine": (
        {
            "meta": {"mmengine_version": "0.10"},
            "state_dict": E,
            "ema_state_dict": {**behind("module.", P), "steps": COUNT},
        },
        "state_dict",
    ),
}

WITHOUT_STATISTICS: dict[str, Mapping[str, Any]] = {
    "by name": {"model": behind("module.", P), "ema": ONLY_PARAMETERS},
    "without dots": {
        "state_dict": {
            **behind("model.", P),
            **{"model_ema." + name.replace(".", ""): E[name] for name in PARAMETERS},
            "model_ema.decay": torch.tensor(0.9),
        }
    },
    "by number": {"model": P, "ema": {"decay": 0.9, "shadow_params": SHADOW}},
}


@pytest.mark.parametrize("case", AVERAGED)
def test_averages_are_taken_where_there_are_some(case: str, tmp_path: Path) -> None:
    content, place = AVERAGED[case]
    network = read(saved(content, tmp_path))
    assert same(network.model, E)
    (note,) = [note for note in network.notes if "EMA" in note]
    assert place in note
    assert "no-ema" in note


@pytest.mark.parametrize("case", AVERAGED)
def test_no_ema_takes_the_others(case: str, tmp_path: Path) -> None:
    network = read(saved(AVERAGED[case][0], tmp_path), no_ema=True)
    assert same(network.model, P)
    assert not any("EMA" in note for note in network.notes)


@pytest.mark.parametrize("case", WITHOUT_STATISTICS)
def test_averages_of_parameters_alone_take_the_other_statistics(case: str, tmp_path: Path) -> None:
    content = WITHOUT_STATISTICS[case]
    assert same(read(saved(content, tmp_path)).model, {**P, **ONLY_PARAMETERS})
    assert same(read(saved(content, tmp_path), no_ema=True).model, P)


def test_an_empty_average_is_none(tmp_path: Path) -> None:
    network = read(saved({"model": P, "ema": None, "ema_decay": 0.99}, tmp_path))
    assert same(network.model, P)
    assert not any("EMA" in note for note in network.notes)


def test_averages_of_something_else_are_left_with_a_note(tmp_path: Path) -> None:
    network = read(saved({"model": P, "ema": {"loss.weight": torch.ones(3, 3)}}, tmp_path))
    assert same(network.model, P)
    assert any("'ema'" in note and "left out" in note for note in network.notes)


def test_averages_alone_are_taken_and_nothing_else_is_there(tmp_path: Path) -> None:
    file = saved({"state_dict_ema": E}, tmp_path)
    assert same(read(file).model, E)
    with pytest.raises(InputError, match="averages"):
        read(file, no_ema=True)


def test_a_layer_may_be_called_ema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks_with_ema.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.ema = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)\n"
    )
    own = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "ema": nn.Linear(4, 2)}).state_dict()
    assert same(read(saved(own, tmp_path), arch="networks_with_ema:Net").model, own)


# Wrappers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, AveragedModel, lambda m: nn.DataParallel(AveragedModel(m))]
)
def test_a_pickled_wrapper_gives_the_network_in_it(wrap: Any, tmp_path: Path) -> None:
    for content in (wrap(PLAIN), {"epoch": 1, "model": wrap(PLAIN)}):
        for trust in (False, True):
            network = read(saved(content, tmp_path), trust_pickle=trust)
            assert type(network.model) is type(PLAIN)
            assert same(network.model, P)
