"""Reparametrised weights: folded before a cut, named where they can't be, and the user's own left alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import structprune
from structprune.channels import channel_groups
from structprune.nn.folding import computed_weights, folded

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from torch.nn.utils import spectral_norm, weight_norm

Norm = Callable[[nn.Module], nn.Module]


def masked(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", 0.3)  # type: ignore[no-any-return, no-untyped-call]


NORMS: dict[str, Norm] = {
    "weight norm": parametrizations.weight_norm,
    "old weight norm": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "mask": masked,
}


def chain(norm: Norm) -> nn.Module:
    """Like the encoders of vocoders, and discriminators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        convs = [norm(nn.Conv1d(*sizes)) for sizes in ((2, 16, 5), (16, 12, 3), (12, 4, 1))]
    return nn.Sequential(
        convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2], nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 2, 40)


@pytest.mark.parametrize("name", NORMS)
def test_outputs_stay_and_the_network_itself_too(name: str, x: Tensor) -> None:
    model = chain(NORMS[name])
    model(x)  # an old norm leaves a weight behind that can't be copied
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model(x)
    plain, notes = folded(model)
    assert torch.equal(plain(x), expected)
    assert len(notes) == 1
    assert "0.weight" in notes[0]
    assert sorted(plain.state_dict()) == [f"{i}.{key}" for i in (0, 2, 4) for key in ("bias", "weight")]
    assert not computed_weights(plain)
    # The user's own is as it was, and computes its weight still.
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(computed_weights(model)) == 3
    assert torch.equal(model(x), expected)
    model.train()(x).sum().backward()


@pytest.mark.parametrize("name", ["old weight norm", "spectral norm"])
def test_it_is_cut_and_loads_again_into_the_users_own(name: str, x: Tensor, tmp_path: Path) -> None:
    model = chain(NORMS[name]).eval()
    done = structprune.compress(model, x, nodes=0.5, score="filter_norm", export=False, trained=True)
    assert {proof.name: proof.passed for proof in done.report.proofs} == {
        "closed_gates": True,
        "reloaded": True,
        "signature": True,
    }
    assert sum(len(done.model.get_parameter(f"{i}.bias")) for i in (0, 2)) == 14
    assert any("is folded" in note for note in done.report.notes)
    done.save(tmp_path / "out")
    again = structprune.load(tmp_path / "out", model=chain(NORMS[name]))
    assert torch.equal(again(x), done.model(x))


def test_every_node_is_offered(x: Tensor) -> None:
    groups = structprune.channel_groups(chain(parametrizations.weight_norm), x)
    assert {group.name: group.size for group in groups} == {"0": 16, "2": 12}
    assert groups.nodes == 28


def test_nothing_to_fold_is_no_copy() -> None:
    model = nn.Linear(2, 3)
    assert folded(model) == (model, ())


def test_a_recurrent_layer_runs_by_its_folded_weights() -> None:
    torch.manual_seed(0)
    lstm = parametrizations.weight_norm(nn.LSTM(4, 6), "weight_hh_l0").eval()
    x = torch.randn(5, 3, 4)
    plain, _ = folded(lstm)
    assert torch.allclose(plain(x)[0], lstm(x)[0])
    with torch.no_grad():
        plain.get_parameter("weight_hh_l0").zero_()
    assert not torch.allclose(plain(x)[0], lstm(x)[0])


def test_what_is_frozen_stays_frozen() -> None:
    layer = parametrizations.weight_norm(nn.Linear(2, 3)).requires_grad_(False)
    plain, _ = folded(nn.Sequential(layer, parametrizations.weight_norm(nn.Linear(3, 2))))
    assert not plain.get_parameter("0.weight").requires_grad
    assert plain.get_parameter("1.weight").requires_grad


class Noise(nn.Module):
    """A weight that comes out otherwise every time."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.randn_like(weight)


def test_what_can_not_be_folded_is_named_with_what_to_do(x: Tensor) -> None:
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Conv1d(8, 2, 1))
    parametrize.register_parametrization(model[2], "weight", Noise())
    same, (note,) = folded(model)
    assert same is model
    assert "2.weight" in note
    assert "Noise" in note
    groups = channel_groups(model, x)
    reasons = {row.layer: row.reason for row in groups.protected}
    assert "Noise" in reasons["2"]
    assert "remove_parametrizations" in reasons["2"]
    assert "Noise" in reasons["0"]
