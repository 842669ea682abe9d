"""SynFlow against the plain derivative of a network of absolute values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from structprune.pruning.gates import gate_weights
from structprune.scoring.criteria import synflow
from structprune.scoring.sampling import Batch
from structprune.scoring.scores import Scores
from tests.criteria.settings import (
    KINDS,
    NAMES,
    Kind,
    by_hand,
    end_to_end,
    gated,
    network,
    sampling,
    statistics,
)
from tests.criteria.test_oracles import assert_same
from tests.oracles import scores as oracle


def used(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network with signs of both kinds everywhere, in its own running means too."""
    model = network(name, dtype)
    for key, value in statistics(model).items():
        model.get_buffer(key).copy_(2 * value)
    return model


def score(name: str, kind: Kind, model: nn.Module) -> Scores:
    return synflow(gated(name, model, kind), sampling(name, model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_brute_force_in_every_precision(
    name: str, kind: Kind, dtype: torch.dtype
) -> None:
    model = used(name, dtype)
    # What float32 holds is exact in float64: not even then do the two differ by more.
    double = used(name, dtype).double()
    over = gated(name, model, kind)
    setting = by_hand(name, double, kind, sampling(name, double))
    buffers = {key: value for key, value in double.named_buffers() if value.is_floating_point()}
    got = end_to_end(score(name, kind, model), over, setting)
    assert got.dtype == torch.float64
    assert_same(got, oracle.synflow(setting, buffers), 1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_signs_do_not_matter(name: str, kind: Kind) -> None:
    signed, positive = used(name), used(name)
    assert any(bool((p < 0).any()) for p in signed.parameters())
    with torch.no_grad():
        for tensor in (*positive.parameters(), *positive.buffers()):
            tensor.abs_()
    first, second = score(name, kind, signed).values, score(name, kind, positive).values
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_neither_data_nor_labels_nor_the_statistics_of_the_sampling_are_used() -> None:
    model = used("TinyConvBN")
    over = gated("TinyConvBN", model, "weights")
    taken_on = sampling("TinyConvBN", model)
    others = tuple(Batch((batch.inputs[0] * 3 + 1,), None) for batch in taken_on.batches[1:])
    other = replace(taken_on, batches=others, statistics=None, batch_norm="batch")
    first, second = synflow(over, taken_on).values, synflow(over, other).values
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_without_biases_every_layer_has_the_same_flow() -> None:
    """The flow that enters a layer leaves it: the scores of every layer add up to R."""
    model = nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False))
    scores = synflow(gate_weights(model), sampling("TinyMLP", network("TinyMLP", torch.float32)))
    first, last = (float(value.sum()) for value in scores.values.values())
    assert first == pytest.approx(last, rel=1e-12)


def test_a_depth_that_leaves_float32_is_no_trouble() -> None:
    layers = [nn.Linear(8, 8, bias=False) for _ in range(50)]
    for layer in layers:
        nn.init.constant_(layer.weight, 10.0)
    shape = torch.zeros(2, 8)
    taken_on = replace(sampling("TinyMLP", network("TinyMLP")), batches=(Batch((shape,), None),))
    scores = synflow(gate_weights(nn.Sequential(*layers)), taken_on)
    assert float(scores.values["0.weight"].max()) > 1e38


class Tagger(nn.Module):
    """Tokens and their weights in, several outputs out, one of them integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, tokens_NT: Tensor, weights_NT: Tensor) -> dict[str, Tensor]:
        """Return class scores and the tokens."""
        scores_NTK = self.head(self.embedding(tokens_NT) * weights_NT[..., None])
        return {"scores": scores_NTK, "tokens": tokens_NT}


def test_integer_inputs_stay_and_all_floating_outputs_count() -> None:
    torch.manual_seed(0)
    model = Tagger()
    tokens_NT, weights_NT = torch.tensor([[1, 5, 2], [0, 0, 0]]), torch.randn(2, 3)
    taken_on = replace(
        sampling("TinyMLP", network("TinyMLP")), batches=(Batch((tokens_NT, weights_NT), None),)
    )
    got = synflow(gate_weights(model), taken_on).values["head.weight"]
    read_T4 = model.embedding.weight.double().abs()[tokens_NT[0]]
    expected = model.head.weight.double().abs() * read_T4.sum(0)
    torch.testing.assert_close(got, expected.detach())
