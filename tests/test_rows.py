"""Mini-batches side by side against one after the other, in float64, and networks that can't have them so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from structprune.channels import channel_groups
from structprune.choices import Accumulate
from structprune.pruning.gates import GatedModel, gate_channels
from structprune.scoring import criteria
from structprune.scoring.criteria import Criterion
from structprune.scoring.rows import in_rows
from structprune.scoring.sampling import Batch, Sampling, with_drawn_labels
from tests.criteria.settings import NAMES, network, statistics
from tests.networks import CLASSES, example

CRITERIA: dict[str, Criterion] = {
    "crop": criteria.crop,
    "snip": criteria.snip,
    "force": criteria.force,
    "gate_taylor": criteria.gate_taylor,
}


class SequenceFirst(nn.Module):
    """Samples along the second axis of what the layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.b(self.a(x.transpose(0, 1)).relu()).relu()).mean(0)
        return out


class Windows(nn.Module):
    """Several rows of what layers read for a sample, end to end; a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.b(self.a(x.flatten(0, 1)).relu()).tanh()).relu()
        out: Tensor = self.head(y).unflatten(0, x.shape[:2]).mean(1)
        return out


class Centred(SequenceFirst):
    """Samples that know of each other: each is seen beside the mean of all."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Flattened(SequenceFirst):
    """Samples that lie neither end to end nor along an axis of their own."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(0, 1).flatten(0, 1)
        out: Tensor = self.head(self.b(self.a(y).relu()).relu()).unflatten(0, (x.shape[1], -1)).mean(0)
        return out


class Recurring(nn.Module):
    """Gates on weights, which all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


@cache
def sequences(build: Callable[[], nn.Module]) -> tuple[GatedModel, Sampling]:
    torch.manual_seed(0)
    model = build().double().eval()
    x = torch.randn(19, 3, 5, dtype=torch.float64)
    labels = torch.randint(CLASSES, (19,))
    batches = tuple(Batch((x,), labels).mini_batches(4))
    sampling = Sampling(batches, cross_entropy, chunk=12, accumulate="abs", seed=5)
    return gate_channels(model, channel_groups(model, x[:2])), sampling


@cache
def images(name: str) -> tuple[GatedModel, Sampling]:
    model = network(name)
    x = example(NAMES[name], 18, dtype=torch.float64)
    labels = torch.randint(CLASSES, (18,), generator=torch.Generator().manual_seed(3))
    batches = tuple(Batch((x,), labels).mini_batches(4))
    sampling = Sampling(batches, cross_entropy, chunk=12, accumulate="abs", statistics=statistics(model))
    return gate_channels(model, channel_groups(model, x[:2])), sampling


CASES: dict[str, Callable[[], tuple[GatedModel, Sampling]]] = {
    **{name: lambda name=name: images(name) for name in NAMES},  # type: ignore[misc]
    "sequence first": lambda: sequences(SequenceFirst),
    "windows": lambda: sequences(Windows),
}


@pytest.mark.parametrize("accumulate", ["abs", "square"])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("case", CASES)
def test_side_by_side_each_mini_batch_has_its_own_derivatives(
    case: str, criterion: str, accumulate: Accumulate
) -> None:
    gated, sampling = CASES[case]()
    sampling = replace(sampling, accumulate=accumulate)
    rowed = in_rows(gated, sampling)
    assert rowed.axes
    together, alone = (CRITERIA[criterion](net, sampling).values for net in (rowed, gated))
    largest = max(float(value.max()) for value in alone.values())
    for name, expected in alone.items():
        torch.testing.assert_close(together[name], expected, rtol=1e-10, atol=1e-12 * largest)


def test_a_pass_takes_as_many_as_its_chunk_holds() -> None:
    gated, sampling = CASES["windows"]()
    rowed = in_rows(gated, sampling)
    sizes = [{gate.shape[0] for gate in gates.values()} for gates, _ in sampling.passes(rowed)]
    assert [len(batch) for batch in sampling.batches] == [4, 4, 4, 4, 3]
    assert sizes == [{3}, {1}, {1}]
    assert all(len(terms) == 1 for _, terms in sampling.passes(rowed))


@pytest.mark.parametrize(("case", "axis"), [("sequence first", 1), ("windows", 0)])
def test_samples_are_found_along_the_axis_where_they_lie(case: str, axis: int) -> None:
    gated, sampling = CASES[case]()
    axes = in_rows(gated, sampling).axes
    assert axes is not None
    assert set(axes.values()) == {axis}


@pytest.mark.parametrize("build", [Centred, Flattened, Recurring])
def test_what_can_not_be_told_apart_is_scored_one_after_the_other(build: Callable[[], nn.Module]) -> None:
    gated, sampling = sequences(build)
    rowed = in_rows(gated, sampling)
    assert rowed.axes is None
    assert len(list(sampling.passes(rowed))) == len(sampling.batches)


@pytest.mark.parametrize("change", [{"batch_norm": "batch"}, {"chunk": 4}, {"accumulate": "total"}])
def test_nor_is_what_has_no_room_or_reason_for_it(change: dict[str, str]) -> None:
    gated, sampling = CASES["windows"]()
    sampling = replace(sampling, **change)  # type: ignore[arg-type]
    shapes = {gate.dim() for gates, _ in sampling.passes(in_rows(gated, sampling)) for gate in gates.values()}
    assert shapes == {1}


def test_a_loss_is_taken_of_each_mini_batch_whatever_it_is() -> None:
    """A loss that is no mean over samples, and outputs in a dict."""
    gated, sampling = CASES["windows"]()
    worst = replace(
        sampling,
        forward=lambda f, inputs: {"scores": f(*inputs), "count": 3},
        loss=lambda output, target: cross_entropy(output["scores"], target, reduction="none").max() ** 2,
    )
    together, alone = (criteria.crop(net, worst).values for net in (in_rows(gated, worst), gated))
    assert in_rows(gated, worst).axes is not None
    for name, expected in alone.items():
        torch.testing.assert_close(together[name], expected, rtol=1e-10, atol=1e-14)


def test_labels_are_drawn_for_every_mini_batch_of_a_pass() -> None:
    gated, sampling = CASES["windows"]()
    drawn = with_drawn_labels(in_rows(gated, sampling), sampling)
    assert [len(batch) for batch in drawn.batches] == [len(batch) for batch in sampling.batches]
    for before, after in zip(sampling.batches, drawn.batches, strict=True):
        assert torch.equal(before.inputs[0], after.inputs[0])
        assert after.target.shape == before.target.shape
