from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from structprune.errors import InputError, UsageError
from structprune.scoring.samples import random_samples, samples_of
from structprune.scoring.sampling import MINI_BATCH, Batch
from tests.networks import CLASSES, TinyConvBN, example
from tests.oracles.state import changed, snapshot

X, Y = torch.arange(40.0).reshape(20, 2), torch.arange(20) % 3


def together(batches: tuple[Batch, ...], position: int = 0) -> Tensor:
    return torch.cat([batch.inputs[position] for batch in batches])


# ---- random


@pytest.fixture
def model() -> nn.Module:
    return TinyConvBN()


@pytest.mark.parametrize("count", [2, 3, 16, 17, 33, 64])
def test_random_samples_are_as_many_as_asked_in_batches_of_two_or_more(model: nn.Module, count: int) -> None:
    samples = random_samples(model, (example(TinyConvBN),), count)
    assert together(samples.batches).shape == (count, 3, 8, 8)
    assert all(2 <= len(batch) <= MINI_BATCH + 1 for batch in samples.batches)
    assert all(batch.target.shape == (len(batch),) for batch in samples.batches)
    assert str(count) in samples.how
    assert not samples.real


def test_random_inputs_are_standard_normal_and_labels_are_classes(model: nn.Module) -> None:
    samples = random_samples(model, (example(TinyConvBN),), 256)
    inputs, labels = together(samples.batches), torch.cat([b.target for b in samples.batches])
    assert abs(float(inputs.mean())) < 0.02
    assert abs(float(inputs.std()) - 1) < 0.02
    assert set(labels.tolist()) == set(range(CLASSES))
    assert torch.isfinite(samples.loss(model(inputs), labels))


def test_random_samples_are_seeded(model: nn.Module) -> None:
    def of(seed: int) -> tuple[Tensor, Tensor]:
        batches = random_samples(model, (example(TinyConvBN),), 32, seed).batches
        return together(batches), torch.cat([batch.target for batch in batches])

    one, again, other = of(3), of(3), of(4)
    assert all(map(torch.equal, one, again))
    assert not any(map(torch.equal, one, other))


def test_random_samples_leave_network_and_random_state_as_they_were(model: nn.Module) -> None:
    before = snapshot(model)
    random_samples(model, (example(TinyConvBN),), 8)
    assert changed(before, snapshot(model)) == []


def test_dense_predictions_get_a_label_a_pixel() -> None:
    samples = random_samples(nn.Conv2d(3, 5, 1), (torch.zeros(1, 3, 4, 6),), 8)
    (batch,) = samples.batches
    assert batch.target.shape == (8, 4, 6)
    assert set(batch.target.flatten().tolist()) == set(range(5))


def test_ids_are_drawn_from_those_of_the_example() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor, scale: Tensor) -> Tensor:
            out: Tensor = self.head(self.words(ids).mean(1) * scale)
            return out

    samples = random_samples(Reader(), (torch.tensor([[2, 5, 7]]), torch.ones(1, 4)), 32)
    ids, scale = together(samples.batches), together(samples.batches, 1)
    assert ids.dtype == torch.int64
    assert set(ids.flatten().tolist()) == {2, 5, 7}
    assert scale.shape == (32, 4)
    assert len(set(scale.flatten().tolist())) > 100


def test_the_precision_is_that_of_the_example() -> None:
    model = TinyConvBN().double()
    samples = random_samples(model, (example(TinyConvBN, dtype=torch.float64),), 4)
    assert together(samples.batches).dtype == torch.float64


@pytest.mark.parametrize(
    "answer",
    [
        lambda y: {"out": y},
        lambda y: {"hidden": y * 0, "logits": y},
        lambda y: (y, y * 0),
        lambda y: [None, y],
    ],
)
def test_of_several_outputs_the_class_scores_are_found(answer: Any) -> None:
    inner = TinyConvBN().eval()

    class Answers(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return answer(inner(x))

    samples = random_samples(Answers(), (example(TinyConvBN),), 4)
    (batch,) = samples.batches
    found = samples.forward(Answers(), batch.inputs)
    assert torch.equal(found, inner(*batch.inputs))
    assert samples.loss(found, batch.target).dim() == 0


class Answering(nn.Module):
    """A small network that wraps its class scores up."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.inner, self.answer = TinyConvBN(), answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(self.inner(x))


@pytest.mark.parametrize("answer", [lambda y: [{"boxes": y}], lambda y: {"count": 3}])
def test_where_no_loss_is_known_none_is_there(answer: Any) -> None:
    samples = random_samples(Answering(answer), (example(TinyConvBN),), 4)
    assert together(samples.batches).shape == (4, 3, 8, 8)
    with pytest.raises(InputError, match=r"no loss is known.*data=, loss= and forward="):
        samples.loss(None, None)


@pytest.mark.parametrize("answer", [lambda y: y[:, 0], lambda y: y[:, :1], lambda y: {"depth": y[:, :1]}])
def test_numbers_that_are_no_classes_get_random_targets(answer: Any) -> None:
    model = Answering(answer)
    samples = random_samples(model, (example(TinyConvBN),), 64)
    output = samples.forward(model, samples.batches[0].inputs)
    target = samples.batches[0].target
    torch.testing.assert_close(samples.loss(output, target), (output - target).square().mean())
    assert abs(float(torch.cat([b.target for b in samples.batches]).mean())) < 0.5
    assert (samples.classes, samples.notable) == (False, True)
    assert "mean squared error of random targets" in samples.objective


def test_a_loss_by_name_without_data() -> None:
    x = (torch.zeros(2, 4),)
    samples = random_samples(nn.Linear(4, 3), x, 64, loss="bce")
    assert set(torch.cat([b.target for b in samples.batches]).flatten().tolist()) == {0.0, 1.0}
    assert samples.batches[0].target.shape == (16, 3)
    assert random_samples(nn.Linear(4, 3), x, loss="mse").batches[0].target.shape == (16, 3)
    with pytest.raises(InputError, match="over one class is always zero"):
        random_samples(nn.Linear(4, 1), x, loss="cross-entropy")
    with pytest.raises(UsageError, match="unknown loss 'l1'; known: cross-entropy, mse, bce"):
        random_samples(nn.Linear(4, 1), x, loss="l1")


class Tagger(nn.Module):
    """Scores words, (N, T, V), or in the form of an image's maps, (N, V, T)."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(9, 4), last

    def forward(self, ids: Tensor) -> Tensor:
        h = self.words(ids)
        out: Tensor = self.last(h.mT if isinstance(self.last, nn.Conv1d) else h)
        return out


@pytest.mark.parametrize("length", [5, 7])
@pytest.mark.parametrize(("last", "axis"), [(nn.Linear(4, 7), 2), (nn.Conv1d(4, 7, 1), 1)])
def test_without_targets_the_last_layer_tells_the_classes(last: nn.Module, axis: int, length: int) -> None:
    model, ids = Tagger(last), torch.arange(2 * length).reshape(2, length) % 9
    samples = random_samples(model, (ids,), 16)
    (batch,) = samples.batches
    assert batch.target.shape == (16, length)
    assert int(batch.target.max()) == 6
    scores = model(*batch.inputs).movedim(axis, 1)
    expected = cross_entropy(scores, batch.target)
    torch.testing.assert_close(samples.loss(samples.forward(model, batch.inputs), batch.target), expected)


@pytest.mark.parametrize("count", [-1, 0, 1])
def test_too_few_random_samples_are_refused(model: nn.Module, count: int) -> None:
    with pytest.raises((UsageError, InputError), match="samples"):
        random_samples(model, (example(TinyConvBN),), count)


# ---- the caller's own


def test_tensors_are_split_into_mini_batches() -> None:
    samples = samples_of((X, Y))
    assert [len(batch) for batch in samples.batches] == [16, 4]
    assert torch.equal(together(samples.batches), X)
    assert torch.equal(torch.cat([b.target for b in samples.batches]), Y)
    assert samples.real
    assert "20" in samples.how
    assert samples.loss is cross_entropy


def test_a_remainder_of_one_joins_the_last_mini_batch() -> None:
    assert [len(batch) for batch in samples_of((X[:17], Y[:17])).batches] == [17]


@pytest.mark.parametrize("loader", [[(X[:8], Y[:8]), (X[8:], Y[8:])], DataLoader(TensorDataset(X, Y), 8)])
def test_loaders_are_taken_batch_by_batch(loader: Any) -> None:
    samples = samples_of(loader)
    assert torch.equal(together(samples.batches), X)
    assert sum(len(batch) for batch in samples.batches) == 20
    assert all(2 <= len(batch) <= MINI_BATCH for batch in samples.batches)


def test_a_generator_is_taken_once() -> None:
    samples = samples_of((X[i : i + 5], Y[i : i + 5]) for i in (0, 5))
    assert [len(batch) for batch in samples.batches] == [10]


def test_several_inputs_stay_together() -> None:
    samples = samples_of(((X, -X), Y))
    assert all(torch.equal(batch.inputs[0], -batch.inputs[1]) for batch in samples.batches)
    assert len(samples.batches) == 2


def test_loss_and_forward_are_the_callers() -> None:
    def forward(network: Any, inputs: tuple[Tensor, ...]) -> Any:
        return network(*inputs)["out"]

    samples = samples_of((X, X), mse_loss, forward)
    assert samples.loss is mse_loss
    assert samples.forward is forward
    plain = samples_of((X, X), mse_loss)
    assert torch.equal(plain.forward(torch.neg, (X,)), -X)


@pytest.mark.parametrize(
    "data",
    [[], (X[:0], Y[:0]), [X, Y], [X], 3, (X, Y[:8]), (X, {"label": Y}), [(X, None)], ((X, X[:3]), Y)],
    ids=["nothing", "no samples", "a list of two tensors", "no targets", "a number", "fewer targets",
         "targets by name", "no target", "inputs of two lengths"],
)  # fmt: skip
def test_what_is_no_data_is_refused_with_what_was_expected(data: Any) -> None:
    with pytest.raises(InputError, match=r"expected \(inputs, targets\)"):
        samples_of(data)


@pytest.mark.parametrize("sizes", [(16, 1), (1, 1, 1), (5, 16, 12)])
def test_samples_are_dealt_anew_whatever_batches_they_came_in(sizes: tuple[int, ...]) -> None:
    pairs = [(torch.randn(n, 3), torch.zeros(n, dtype=torch.long)) for n in sizes]
    samples = samples_of(pairs)
    assert min(map(len, samples.batches)) >= 2
    together = torch.cat([batch.inputs[0] for batch in samples.batches])
    assert torch.equal(together, torch.cat([x for x, _ in pairs]))
