"""Losses chosen by their targets, held against torch's own on outputs laid out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import cross_entropy as ce
from torch.nn.functional import mse_loss as mse
from torch.nn.functional import one_hot

from structprune.errors import InputError, UsageError
from structprune.scoring.losses import Objective, fitting
from structprune.scoring.samples import fitted, samples_of

N = 6


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def whole(classes: int, *shape: int) -> Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(1))


def shares(axis: int, *shape: int) -> Tensor:
    return normal(*shape).softmax(axis)


def bits(*shape: int) -> Tensor:
    return whole(2, *shape).float()


def value(objective: Objective, output: Any, target: Tensor) -> Tensor:
    return objective.loss(objective.arrange(output), objective.adapt(target))


Expected = Callable[[Tensor, Tensor], Tensor]

FLOATS: dict[str, tuple[Tensor, Tensor, Expected, str]] = {
    "shares of classes": (normal(N, 3), shares(1, N, 3), ce, "cross entropy"),
    "one-hot": (normal(N, 3), one_hot(whole(3, N)).float(), ce, "cross entropy"),
    "shares a pixel": (normal(N, 3, 4, 5), shares(1, N, 3, 4, 5), ce, "cross entropy"),
    "shares a word": (
        normal(N, 4, 7),
        shares(2, N, 4, 7),
        lambda y, t: ce(y.mT, t.mT),
        "cross entropy over the 7 classes along axis 2",
    ),
    "several of many labels": (
        normal(N, 5),
        bits(N, 5),
        bce,
        "binary cross entropy",
    ),
    "a mask": (
        normal(N, 1, 4, 4),
        bits(N, 1, 4, 4),
        bce,
        "binary cross entropy",
    ),
    "a mask without its channel": (
        normal(N, 1, 4, 4),
        bits(N, 4, 4),
        lambda y, t: bce(y[:, 0], t),
        "binary cross entropy",
    ),
    "numbers": (normal(N, 1), 40 + normal(N, 1), mse, "mean squared error"),
    "numbers without a column": (
        normal(N, 1),
        40 + normal(N),
        lambda y, t: mse(y[:, 0], t),
        "mean squared error",
    ),
    "images": (normal(N, 3, 4, 4), normal(N, 3, 4, 4).sigmoid(), mse, "mean squared error"),
    "shares of one class": (
        normal(N, 1),
        torch.ones(N, 1),
        bce,
        "binary cross entropy",
    ),
    "in double": (normal(N, 1), normal(N, 1).double(), lambda y, t: mse(y, t.float()), "mean squared"),
}


@pytest.mark.parametrize("kind", FLOATS)
def test_numbers_as_targets_tell_their_loss(kind: str) -> None:
    output, target, expected, words = FLOATS[kind]
    objective = fitting(output[:2], [target[:4], target[4:]])
    torch.testing.assert_close(value(objective, output, target), expected(output, target))
    assert objective.words.startswith(words)
    assert not objective.plain


@pytest.mark.parametrize("rest", [0, 1])
def test_all_targets_are_looked_at(rest: int) -> None:
    """A batch of zeros and ones among numbers makes no mask of them."""
    targets = [bits(N, 2, 3), normal(N, 2, 3)]
    assert fitting(normal(2, 2, 3), targets[:: 1 - 2 * rest]).name == "mse"


@pytest.mark.parametrize(
    ("output", "target", "axis"),
    [
        (normal(N, 3), whole(3, N), 1),
        (normal(N, 3, 4, 5), whole(3, N, 4, 5), 1),
        (normal(N, 4, 7), whole(7, N, 4), 2),
        (normal(N, 7, 4), whole(7, N, 4), 1),
        (normal(N, 3, 4, 5), whole(5, N, 3, 4), 3),
    ],
    ids=["classes", "pixels", "words", "words, classes first", "pixels, classes last"],
)
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_the_axis_of_classes_is_the_one_that_targets_lack(
    output: Tensor, target: Tensor, axis: int, kind: torch.dtype
) -> None:
    objective = fitting(output[:2], [target.to(kind)])
    assert (objective.name, objective.axis, objective.classes) == ("cross-entropy", axis, output.shape[axis])
    expected = ce(output.movedim(axis, 1), target)
    torch.testing.assert_close(value(objective, output, target.to(kind)), expected)
    assert objective.plain == (output.dim() == 2)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (normal(N, 5, 5), whole(5, N, 5)),
        (normal(N, 4, 4, 3), whole(4, N, 4, 3)),
        (normal(N, 2, 2), torch.full((N, 2, 2), 0.5)),
    ],
    ids=["as many words as classes", "as many rows as classes", "shares along both"],
)
def test_where_two_axes_fit_the_loss_is_asked_for(output: Tensor, target: Tensor) -> None:
    with pytest.raises(InputError, match=r"axes 1 and 2 of the output.*give loss="):
        fitting(output, [target])
    said = fitting(output, [target], "cross-entropy")
    torch.testing.assert_close(value(said, output, target), ce(output, target))
    assert "along axis 1" in said.words


@pytest.mark.parametrize(
    ("output", "target", "words"),
    [
        (normal(N, 1), whole(2, N), "one class is always zero.*'bce' or 'mse'"),
        (normal(N, 1, 4, 4), whole(2, N, 4, 4), "one class is always zero"),
        (normal(N, 3), whole(3, N, 2), r"targets int64 of shape \(N, 2\)"),
        (normal(N, 3), normal(N, 2), r"targets float32 of shape \(N, 2\)"),
        ([{"boxes": normal(N, 4)}], whole(3, N), "a list, for which no loss is known"),
        ("words", whole(3, N), "a str, for which no loss is known"),
    ],
)
def test_what_fits_no_loss_is_refused(output: Any, target: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        fitting(output, [target])


@pytest.mark.parametrize(
    ("name", "output", "target", "expected"),
    [
        ("mse", normal(N, 1), whole(90, N), lambda y, t: mse(y[:, 0], t.float())),
        ("bce", normal(N, 1), whole(2, N), lambda y, t: bce(y[:, 0], t.float())),
        ("bce", normal(N, 3), whole(3, N), lambda y, t: bce(y, one_hot(t, 3).float())),
        ("mse", normal(N, 4, 3), whole(3, N, 4), lambda y, t: mse(y, one_hot(t, 3).float())),
        ("mse", normal(N, 3), shares(1, N, 3), mse),
        ("bce", normal(N, 3), shares(1, N, 3), bce),
    ],
    ids=["ages", "two classes", "one against all", "words", "shares", "shares, each"],
)
def test_a_loss_by_name_takes_classes_and_numbers(
    name: str, output: Tensor, target: Tensor, expected: Expected
) -> None:
    objective = fitting(output[:2], [target], name)
    torch.testing.assert_close(value(objective, output, target), expected(output, target))
    assert "since" not in objective.words


def test_a_name_that_is_unknown_or_does_not_fit() -> None:
    with pytest.raises(UsageError, match="unknown loss 'l1'; known: cross-entropy, mse, bce"):
        fitting(normal(N, 1), [normal(N, 1)], "l1")
    with pytest.raises(InputError, match="takes targets from 0 to 1"):
        fitting(normal(N, 1), [normal(N, 1)], "bce")
    with pytest.raises(InputError, match="mean squared error doesn't take"):
        fitting(normal(N, 3), [normal(N, 2)], "mse")


@pytest.mark.parametrize("shape", [(N, 1), (N, 1, 4, 4)])
def test_a_sigmoid_at_the_end_is_seen(shape: tuple[int, ...]) -> None:
    scores = normal(*shape).requires_grad_()
    target = bits(*shape)
    objective = fitting(scores.sigmoid().squeeze(1).unsqueeze(1), [target])
    expected = bce(scores, target)
    torch.testing.assert_close(value(objective, scores.sigmoid(), target), expected)
    assert "sigmoid" in objective.words


class Outputs:
    """An output that is an object of its own."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


@pytest.mark.parametrize(
    "output",
    [
        {"hidden": normal(N, 9), "logits": normal(N, 3)},
        {"mask": torch.ones(N, dtype=torch.bool), "scores": normal(N, 3)},
        Outputs(loss=None, logits=normal(N, 3), cache=object()),
        (normal(N, 3), normal(N, 9)),
    ],
    ids=["by name", "the only real one", "an object", "the first"],
)
def test_of_several_parts_one_is_scored_and_named(output: Any) -> None:
    target = whole(3, N)
    objective = fitting(output, [target])
    torch.testing.assert_close(value(objective, output, target), ce(normal(N, 3), target))
    assert "of the output" in objective.words


def test_samples_are_laid_out_for_the_loss() -> None:
    x, target = normal(20, 4, 5), whole(7, 20, 4)
    layer = torch.nn.Linear(5, 7)
    samples = fitted(samples_of((x, target)), layer(x[:2]))
    losses = [samples.loss(samples.forward(layer, b.inputs), b.target) * len(b) for b in samples.batches]
    torch.testing.assert_close(sum(losses) / 20, ce(layer(x).mT, target))
    assert samples.classes
