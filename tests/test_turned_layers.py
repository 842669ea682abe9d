"""Linear layers with a weight (I, O), as transformers' Conv1D is: all that GPT-2 is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from structprune.channels import channel_groups
from structprune.errors import InputError
from structprune.models.results import load, save_weights_and_plan, widths_of
from structprune.nn.layers import in_width, node_layers, out_width, weighted_layers
from structprune.nn.reinit import redrawn
from structprune.proofs.trial_cut import verified_groups
from structprune.pruning.counts import weight_entries, widths
from structprune.pruning.gates import gate_channels
from structprune.scoring.samples import random_samples
from structprune.scoring.score import Scoring, score
from tests.cuts import Cut


class Conv1D(nn.Module):
    """As in transformers, by name and attributes."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) * 0.3), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        size = (*x.shape[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(size)


def turned() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Conv1D(16, 6), nn.GELU(), Conv1D(12, 16), nn.GELU(), Conv1D(4, 12))


def plain() -> nn.Module:
    """The same network of plain linear layers."""
    layers = [nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 4)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for key, value in turned().state_dict().items():
            model.get_parameter(key).copy_(value.t())
    return model


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(8, 6)


def test_its_nodes_and_weights_count_as_those_of_a_linear_layer(x: Tensor) -> None:
    one, other = turned(), plain()
    for (name, layer), (same, linear) in zip(node_layers(one), node_layers(other), strict=True):
        assert (name, in_width(layer), out_width(layer)) == (same, in_width(linear), out_width(linear))
    assert weight_entries(one) == weight_entries(other) == 6 * 16 + 16 * 12 + 12 * 4
    assert len(list(weighted_layers(one))) == 3
    assert channel_groups(one, x) == channel_groups(other, x)


def test_a_cut_of_it_is_that_of_linear_layers(x: Tensor) -> None:
    cut, linear = Cut(turned(), (x,)), Cut(plain(), (x,))
    assert cut.proof().passed
    assert verified_groups(cut.dense, cut.groups, (x,)) == cut.groups
    assert torch.allclose(cut.small(x), linear.small(x), atol=1e-6)
    assert widths(cut.dense, cut.small) == widths(linear.dense, linear.small)
    assert vars(cut.small.get_submodule("2"))["nf"] == 6
    assert vars(cut.small.get_submodule("2"))["nx"] == 8


@pytest.mark.parametrize("on_inputs", [True, False])
def test_gates_close_on_inputs_and_on_weights(on_inputs: bool, x: Tensor) -> None:
    model = turned()
    groups = channel_groups(model, x)
    sizes = None if on_inputs else dict.fromkeys(["0", "2", "4"], 1 << 40)
    gates = {group.name: torch.rand(group.size) for group in groups}
    found = gate_channels(model, groups, sizes)(gates, (x,))
    same = plain()
    assert torch.allclose(found, gate_channels(same, groups, sizes)(gates, (x,)), atol=1e-5)


@pytest.mark.parametrize("criterion", ["filter_norm", "snip", "crop", "magnitude"])
def test_scores_are_those_of_linear_layers(criterion: str, x: Tensor) -> None:
    found = []
    for model in (turned(), plain()):
        groups = channel_groups(model, x)
        samples = random_samples(model, (x,), 8, 0)
        found.append(score(model, groups, samples, Scoring(criterion, trained=True)).values)
    for name, values in found[0].items():
        assert torch.allclose(values, found[1][name], rtol=1e-3, atol=1e-6)


def test_redrawn_weights_have_the_spread_of_their_inputs() -> None:
    model = nn.Sequential(Conv1D(400, 100))
    drawn = redrawn(model, torch.Generator().manual_seed(0))
    assert drawn["0.weight"].shape == (100, 400)
    assert float(drawn["0.weight"].std()) == pytest.approx((2 / 100) ** 0.5, rel=0.05)


def test_it_is_written_and_loaded_again(x: Tensor, tmp_path: Path) -> None:
    cut = Cut(turned(), (x,))
    save_weights_and_plan(
        tmp_path, cut.small, cut.plan, None, (6,), dense_widths=widths_of(cut.dense), name="turned"
    )
    again = load(tmp_path, model=turned())
    assert torch.equal(again(x), cut.small(x))
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    (tmp_path / "plan.json").write_text(text.replace('"nf": 8', '"nf": 7'), encoding="utf-8")
    with pytest.raises(InputError):
        load(tmp_path, model=turned())


def test_another_class_of_that_name_is_no_such_layer() -> None:
    class Conv1D(nn.Conv1d):
        pass

    (layer,) = [layer for _, layer in weighted_layers(nn.Sequential(Conv1D(2, 3, 1)))]
    assert out_width(layer) == 3
