"""One answer to which channels may go, whoever asks; and a criterion's needs, under whichever name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import structprune
from structprune.channels import channel_groups as traced_groups
from structprune.report.data import Report
from structprune.scoring.criteria import CRITERIA, needed
from structprune.scoring.criteria.force import force
from structprune.scoring.criteria.magnitude import magnitude
from structprune.training import train
from structprune.training.pruning_step import cutter
from structprune.workflows.reporting import inputs_of_score
from tests.trainer.sessions import session


class Divides(nn.Module):
    """Divides by the number of its channels, which a trace can't see and a trial cut does."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.plain, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mean(x).relu()
        y = self.plain(y / y.shape[1]).relu()
        out: Tensor = self.head(y.mean((2, 3)))
        return out


def test_python_offers_what_compress_cuts() -> None:
    torch.manual_seed(0)
    network, example = Divides(), torch.zeros(1, 3, 8, 8)
    assert {group.name for group in traced_groups(network, example)} == {"mean", "plain"}
    offered = structprune.channel_groups(network, example)
    assert [group.name for group in offered] == ["plain"]
    assert "mean" in {row.layer for row in offered.protected}
    assert set(structprune.score(network, example, "magnitude").values) == {"plain"}
    compressed = structprune.compress(network, example, nodes=0.2, score="magnitude", export=False)
    assert set(compressed.plan.keep) == {"plain"}


class Scaled(nn.Module):
    """Takes a number beside its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        out: Tensor = self.head(self.hidden(x).relu()) * scale
        return out


def test_an_input_without_dimensions_stays_what_it_is() -> None:
    offered = structprune.channel_groups(Scaled(), (torch.zeros(1, 5), torch.tensor(2.0)))
    assert [group.name for group in offered] == ["hidden"]


def test_training_cuts_the_same() -> None:
    asked = session("crop-s")
    groups = cutter(asked).groups
    assert groups is not None
    assert {g.name for g in groups} == {
        g.name for g in structprune.channel_groups(asked.model, asked.example)
    }


def test_score_cuts_an_embedding_where_it_is_asked_for() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    example = torch.randn(2, 6)
    assert len(structprune.channel_groups(network, example)) == 0
    assert set(structprune.score(network, example, "magnitude", embedding=True).values) == {"0"}


# ---- a plug-in's function says what it needs, whatever it is called


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very functions of our own under names of somebody else's."""
    entries = {**CRITERIA._entries, "theirs": magnitude, "theirs_regrowing": force}
    monkeypatch.setattr(CRITERIA, "_entries", entries)


@pytest.mark.usefixtures("renamed")
def test_its_needs_come_with_the_function() -> None:
    assert needed("theirs") == needed("magnitude")
    assert needed("theirs_regrowing") == needed("force")
    assert needed("force")[0].regrows


@pytest.mark.usefixtures("renamed")
def test_the_same_function_is_the_same_criterion() -> None:
    torch.manual_seed(0)
    network, example = Divides(), torch.zeros(1, 3, 8, 8)
    ours, theirs = (structprune.score(network, example, name) for name in ("magnitude", "theirs"))
    assert all(torch.equal(ours.values[name], values) for name, values in theirs.values.items())
    reports = [
        structprune.compress(network, example, nodes=0.2, score=name, export=False).report
        for name in ("magnitude", "theirs")
    ]
    assert _apart_from_name(reports[0]) == _apart_from_name(reports[1])


def _apart_from_name(report: Report) -> tuple[object, ...]:
    return report.nodes, report.samples, report.draws, report.data, report.loss, report.notes


@pytest.mark.usefixtures("renamed")
@pytest.mark.parametrize(("ours", "theirs"), [("ltr", "theirs"), ("force", "theirs_regrowing")])
def test_training_treats_it_alike(ours: str, theirs: str) -> None:
    plain = session(ours)
    other = replace(plain, method=replace(plain.method, score=theirs))
    assert inputs_of_score(other) == inputs_of_score(plain)
    one, two = train(plain), train(other)
    assert all(torch.equal(mask, two.masks[name]) for name, mask in one.masks.items())
