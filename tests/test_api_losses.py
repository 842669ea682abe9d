"""Networks that are no classifiers, from Python: which loss scores them, and which scores take none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import structprune
from structprune.channels import channel_groups
from structprune.errors import InputError, UsageError
from structprune.scoring.samples import samples_of
from structprune.scoring.score import Scoring, score


def one_output() -> nn.Module:
    """Binary segmentation, depth, matting."""
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 1, 1))


def age() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1)
    )


def restoration() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 3, 3, padding=1),
    )


class Detector(nn.Module):
    """Boxes and whole numbers, of which no loss is known."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))

    def forward(self, x: Tensor) -> Any:
        return [{"boxes": self.body(x).flatten(2)}]


X = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
QUICK: dict[str, Any] = {"export": False, "correct": "none"}
WITHOUT_LOSS = ("filter_norm", "magnitude", "random", "synflow", "ntk_sap")


@pytest.mark.parametrize("score_name", [*WITHOUT_LOSS, "bn_scale"])
def test_scores_without_a_loss_ask_for_none(score_name: str) -> None:
    model = one_output()
    nn.init.uniform_(model.get_parameter("1.weight"))
    small = structprune.compress(model, X[:2], 0.5, score=score_name, **QUICK)
    assert (small.report.nodes.after, small.report.loss) == (8, None)


@pytest.mark.parametrize("score_name", WITHOUT_LOSS)
def test_outputs_of_which_no_loss_is_known_take_scores_without_one(score_name: str) -> None:
    assert structprune.score(Detector(), X[:2], score_name).values["body.0"].shape == (16,)


def test_a_score_of_the_loss_is_refused_where_none_is_known() -> None:
    with pytest.raises(InputError, match=r"a list, for which no loss is known; choose a score.*filter_norm"):
        structprune.score(Detector(), X[:2], "snip")


def test_one_output_is_scored_on_random_numbers_and_says_so() -> None:
    small = structprune.compress(one_output(), X[:2], 0.5, score="snip", **QUICK)
    assert small.report.loss == "mean squared error of random targets"
    assert f"scored with {small.report.loss}" in small.report.notes


def by_hand(loss: Callable[[Tensor, Tensor], Tensor], model: nn.Module, target: Tensor) -> Tensor:
    """|dL/dc| of gates on what the second layer reads, of all inputs at once."""
    gate = torch.ones(16, requires_grad=True)
    hidden = torch.relu(model.get_submodule("0")(X)) * gate[:, None, None]
    output = hidden
    for layer in list(model.children())[2:]:
        output = layer(output)
    (slope,) = torch.autograd.grad(loss(output, target), gate)
    return slope.abs()


@pytest.mark.parametrize(
    ("build", "target", "loss", "words"),
    [
        (age, 20 + 60 * torch.rand(24, 1), nn.functional.mse_loss, "mean squared error"),
        (
            age,
            20 + 60 * torch.rand(24),
            lambda y, t: nn.functional.mse_loss(y[:, 0], t),
            "mean squared error",
        ),
        (restoration, X, nn.functional.mse_loss, "mean squared error"),
        (
            age,
            (torch.arange(24.0) % 2)[:, None],
            nn.functional.binary_cross_entropy_with_logits,
            "binary cross entropy",
        ),
    ],
    ids=["ages", "ages without a column", "images", "yes or no"],
)
def test_numbers_as_targets_are_scored_by_a_loss_of_numbers(
    build: Callable[[], nn.Module], target: Tensor, loss: Callable[[Tensor, Tensor], Tensor], words: str
) -> None:
    model = build()
    options: dict[str, Any] = {"data": (X, target), "trained": False}
    found = structprune.score(model, X[:2], "snip", **options).values["0"]
    torch.testing.assert_close(found, by_hand(loss, model, target).detach(), rtol=1e-4, atol=1e-6)
    small = structprune.compress(model, X[:2], 0.4, score="snip", **QUICK, **options)
    assert small.report.loss is not None
    assert small.report.loss.startswith(words)
    assert any(note.startswith(f"scored with {words}") for note in small.report.notes)


def test_whole_ages_of_one_output_ask_for_a_loss_and_take_it() -> None:
    ages = torch.arange(24) + 20
    with pytest.raises(InputError, match=r"one class is always zero.*'bce' or 'mse'"):
        structprune.score(age(), X[:2], "snip", data=(X, ages))
    model = age()
    named, numbers = (
        structprune.score(model, X[:2], "snip", data=(X, target), loss=loss).values["0"]
        for target, loss in ((ages, "mse"), (ages.float(), None))
    )
    assert torch.equal(named, numbers)


def test_a_loss_that_is_none() -> None:
    with pytest.raises(UsageError, match="unknown loss 'l1'; known: cross-entropy, mse, bce"):
        structprune.score(age(), X[:2], loss="l1")
    with pytest.raises(UsageError, match="loss is a function of targets, and without data there are none"):
        structprune.score(age(), X[:2], loss=nn.functional.mse_loss)
    with pytest.raises(UsageError, match="loss is a int; expected a function"):
        structprune.score(age(), X[:2], loss=3)  # type: ignore[arg-type]


class Reader(nn.Module):
    """A language model: scores (N, T, V) of what comes next."""

    def __init__(self, words: int = 11) -> None:
        super().__init__()
        self.words, self.up, self.head = nn.Embedding(words, 8), nn.Linear(8, 16), nn.Linear(16, words)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.up(self.words(ids)).tanh())
        return scores


IDS = torch.randint(0, 11, (24, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("trained", [False, True])
def test_a_language_model_is_scored_along_its_words(trained: bool) -> None:
    def along_words(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())

    model, options = Reader(), {"trained": trained, "labels": "given", "data": (IDS, IDS.roll(-1, 1))}
    own, given = (
        structprune.score(model, IDS[:2], "snip", loss=loss, **options).values["up"]  # type: ignore[arg-type]
        for loss in (None, along_words)
    )
    torch.testing.assert_close(own, given)
    small = structprune.compress(model, IDS[:2], 0.4, score="snip", data=(IDS, IDS), **QUICK)
    assert small.report.loss == "cross entropy over the 11 classes along axis 2 of the output"


def test_labels_are_drawn_along_the_words() -> None:
    """Targets that are not looked at may be anything; labels that are drawn are words."""
    model, nothing = Reader(), torch.zeros(24, dtype=torch.long)
    found = structprune.score(model, IDS[:2], "snip", data=(IDS, nothing), trained=True)
    assert found.values["up"].shape == (16,)


def test_as_many_words_as_places_ask_for_a_loss() -> None:
    with pytest.raises(InputError, match=r"axes 1 and 2 of the output, \(N, 6, 6\).*give loss="):
        structprune.score(Reader(6), IDS[:2] % 6, "snip", data=(IDS % 6, IDS % 6))


class Counting(nn.Module):
    """Counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        self.body = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Any:
        self.passes += 1
        return self.body(x)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", ["filter_norm", "magnitude", "bn_scale", "random", "random+filter_norm"])
def test_scores_of_the_weights_run_nothing(name: str, trained: bool) -> None:
    model, x = Counting(), torch.randn(64, 4)
    nn.init.uniform_(model.get_parameter("body.1.weight"))
    groups, samples = channel_groups(model, x[:2]), samples_of((x, torch.arange(64) % 3))
    model.passes = 0
    score(model, groups, samples, Scoring(name, trained=trained))
    assert model.passes == 0


def test_ntk_sap_draws_no_labels() -> None:
    model, x = Counting(), torch.randn(64, 4)
    groups, samples = channel_groups(model, x[:2]), samples_of((x, torch.arange(64) % 3))
    counts = {}
    for labels in ("given", "drawn"):
        model.passes = 0
        score(model, groups, samples, Scoring("ntk_sap", trained=True, labels=labels))
        counts[labels] = model.passes
    assert counts["given"] == counts["drawn"]
