from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from structprune.errors import UsageError
from structprune.training import schedules
from structprune.training.schedules import (
    Cut,
    Fractions,
    Remember,
    Rewind,
    Step,
    Steps,
    Train,
    after_training,
    before_training,
    dense,
    early,
    exponential,
    halving,
    one_shot,
    rewind,
    rounds,
    tick_tock,
)

TOCK = partial(Train, l1=1e-3)
TICK = Train(1, only="gates")
WATCH = Train(1, "constant", watch=True)


def played(steps: Steps, answers: Iterable[bool] = ()) -> list[Step]:
    """All steps, the watching ones answered in turn; False when there are no more answers."""
    return list(_played(steps, iter(answers)))


def _played(steps: Steps, answers: Iterator[bool]) -> Iterator[Step]:
    answer: bool | None = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration:
            return
        yield step
        answer = next(answers, False) if isinstance(step, Train) and step.watch else None


def epochs_of(steps: Iterable[Step]) -> list[int]:
    return [step.epochs for step in steps if isinstance(step, Train)]


def cuts_of(steps: Iterable[Step]) -> list[float]:
    return [step.remove for step in steps if isinstance(step, Cut)]


# ---- fractions


@pytest.mark.parametrize("remove", [0.0, 0.3, 0.89, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_exponential_keeps_the_same_share_of_the_survivors_in_every_step(remove: float, steps: int) -> None:
    fractions = [0.0, *exponential(remove, steps)]
    shares = [(1 - after) / (1 - before) for before, after in itertools.pairwise(fractions)]
    assert len(shares) == steps
    assert shares == pytest.approx([(1 - remove) ** (1 / steps)] * steps)
    assert fractions[-1] == remove  # to the last bit


@pytest.mark.parametrize("remove", [0.0, 0.1, 0.89])
def test_one_step_is_one_shot(remove: float) -> None:
    assert list(exponential(remove, 1)) == list(one_shot(remove)) == [remove]


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps: int) -> None:
    with pytest.raises(UsageError, match="at least one"):
        list(exponential(0.5, steps))


@pytest.mark.parametrize(
    ("remove", "expected"),
    [
        (0.98, [0.50, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98]),  # as published
        (0.5, [0.25, 0.375, 0.4375, 0.46875, 0.484375, 0.4921875, 0.5]),  # EarlyCroP-U's own exception
        (0.2, [0.1, 0.15, 0.175, 0.1875, 0.19375, 0.196875, 0.2]),  # the published start over-prunes
    ],
)
def test_halving_is_croppits(remove: float, expected: list[float]) -> None:
    assert list(halving(remove)) == pytest.approx(expected)


@pytest.mark.parametrize("fractions_of", [one_shot, partial(exponential, steps=5), halving, rounds])
@pytest.mark.parametrize("remove", [0.0, 0.01, 0.36, 0.49, 0.5, 0.51, 0.8, 0.98, 0.9999])
def test_fractions_never_shrink_nor_pass_the_target_and_end_at_it(
    fractions_of: Fractions, remove: float
) -> None:
    fractions = list(fractions_of(remove))
    assert fractions == sorted(fractions)
    assert fractions[-1] == remove
    assert fractions[0] >= 0


@pytest.mark.parametrize(("remove", "count"), [(0.0, 1), (0.1, 1), (0.2, 1), (0.36, 2), (0.5, 4), (0.98, 18)])
def test_rounds_take_a_fifth_of_the_survivors_until_the_target(remove: float, count: int) -> None:
    fractions = [0.0, *rounds(remove)]
    shares = [(1 - after) / (1 - before) for before, after in itertools.pairwise(fractions)]
    assert len(shares) == count
    assert shares[:-1] == pytest.approx([0.8] * (count - 1))
    assert shares[-1] >= 0.8 - 1e-9
    assert fractions[-1] == remove


@pytest.mark.parametrize("make", [lambda: halving(0.5, -1), lambda: rounds(1.0), lambda: rounds(0.5, 0.0)])
def test_fractions_refuse_nonsense(make: Callable[[], Iterator[float]]) -> None:
    with pytest.raises(UsageError, match="expected"):
        list(make())


# ---- schedules, step by step


def test_dense_only_trains() -> None:
    assert played(dense(80)) == [Train(80)]


def test_before_training_cuts_first() -> None:
    assert played(before_training(0.89, 80)) == [Cut(0.89), Train(80)]
    assert played(before_training(0.5, 3, lambda remove: halving(remove, 0))) == [
        Cut(0.25),
        Cut(0.5),
        Train(3),
    ]


@pytest.mark.parametrize(
    ("epochs", "share", "expected"),
    [
        (80, 0.5, [Train(40), Cut(0.9), Train(40)]),
        (80, 0.1, [Train(72), Cut(0.9), Train(8)]),
        (80, 0.0, [Train(79), Cut(0.9), Train(1)]),
        (80, 1.0, [Train(1), Cut(0.9), Train(79)]),
        (3, 0.5, [Train(1), Cut(0.9), Train(2)]),
        (2, 1.0, [Train(1), Cut(0.9), Train(1)]),
        (1, 0.5, [Cut(0.9), Train(1)]),
    ],
)
def test_after_training_fine_tunes(epochs: int, share: float, expected: list[Step]) -> None:
    assert played(after_training(0.9, epochs, share=share)) == expected


@pytest.mark.parametrize(
    ("epochs", "answers", "expected"),
    [
        (80, [False, False, True], [WATCH] * 3 + [Cut(0.9), Train(77)]),
        (80, [True, True], [WATCH] * 2 + [Cut(0.9), Train(78)]),  # never before the second
        (80, [True, False, True], [WATCH] * 3 + [Cut(0.9), Train(77)]),  # an early answer is not kept
        (80, [], [WATCH] * 20 + [Cut(0.9), Train(60)]),  # a quarter at the latest
        (4, [], [WATCH] * 2 + [Cut(0.9), Train(2)]),
        (3, [], [WATCH] * 2 + [Cut(0.9), Train(1)]),
        (2, [], [WATCH, Cut(0.9), Train(1)]),
        (1, [], [Cut(0.9), Train(1)]),
    ],
)
def test_early_cuts_when_told_or_at_the_latest(
    epochs: int, answers: list[bool], expected: list[Step]
) -> None:
    assert played(early(0.9, epochs), answers) == expected


def test_early_takes_its_limits_penalty_and_fractions() -> None:
    watch = Train(1, "constant", l1=1e-4, watch=True)
    steps = early(0.75, 10, partial(exponential, steps=2), latest=3, least=1, l1=1e-4)
    assert played(steps, [True]) == [watch, Cut(0.5), Cut(0.75), Train(9)]
    assert played(early(0.9, 9, latest=8)) == [WATCH] * 8 + [Cut(0.9), Train(1)]
    assert played(early(0.9, 2, latest=1)) == [WATCH, Cut(0.9), Train(1)]


def test_early_as_published_trains_all_epochs_again() -> None:
    assert played(early(0.9, 30, extra=True), [False, True]) == [WATCH] * 2 + [Cut(0.9), Train(30)]
    assert played(early(0.9, 1, extra=True)) == [WATCH] * 2 + [Cut(0.9), Train(1)]


POINT = [Train(1, "constant"), Remember()]


@pytest.mark.parametrize(
    ("remove", "epochs", "expected"),
    [
        (0.36, 10, [*POINT, Train(1), Cut(0.2), Rewind(), Train(1), Cut(0.36), Rewind(), Train(7)]),
        (0.99, 4, [*POINT, Train(1), Cut(0.9), Rewind(), Train(1), Cut(0.99), Rewind(), Train(1)]),
        (0.99, 3, [*POINT, Train(1), Cut(0.99), Rewind(), Train(1)]),
        (0.99, 2, [Remember(), Train(1), Cut(0.99), Rewind(), Train(1)]),
        (0.99, 1, [Cut(0.99), Train(1)]),
    ],
)
def test_rewind_divides_one_budget(remove: float, epochs: int, expected: list[Step]) -> None:
    found = played(rewind(remove, epochs))
    assert cuts_of(found) == pytest.approx(cuts_of(expected))
    assert [step for step in found if not isinstance(step, Cut)] == [
        step for step in expected if not isinstance(step, Cut)
    ]
    assert [type(step) for step in found] == [type(step) for step in expected]


def test_rewind_needs_no_more_rounds_than_are_published() -> None:
    steps = played(rewind(0.98, 80, point=2))
    assert steps[:2] == [Train(2, "constant"), Remember()]
    assert len(cuts_of(steps)) == steps.count(Rewind()) == 18
    assert epochs_of(steps) == [2] + [1] * 18 + [60]


def test_rewind_as_published_trains_in_full_every_round() -> None:
    steps = played(rewind(0.98, 30, extra=True))
    assert epochs_of(steps) == [1] + [30] * 19
    assert cuts_of(steps) == list(rounds(0.98))
    assert played(rewind(0.2, 30, point=0, extra=True)) == [
        Remember(),
        Train(30),
        Cut(0.2),
        Rewind(),
        Train(30),
    ]


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (8, [Train(2), TOCK(2), TICK, Cut(0.5), TICK, Cut(0.75), Train(2)]),
        (5, [Train(1), TOCK(1), TICK, Cut(0.75), Train(2)]),
        (4, [Train(1), TOCK(1), TICK, Cut(0.75), Train(1)]),
        (3, [Train(1), TICK, Cut(0.75), Train(1)]),
        (2, [TICK, Cut(0.75), Train(1)]),
        (1, [TICK, Cut(0.75)]),
    ],
)
def test_tick_tock_divides_one_budget(epochs: int, expected: list[Step]) -> None:
    assert played(tick_tock(0.75, epochs)) == expected


def test_tick_tock_tocks_after_every_few_ticks() -> None:
    steps = played(tick_tock(0.9, 40, ticks=5, tock_every=2))
    kinds = ["tick" if step == TICK else "cut" if isinstance(step, Cut) else "" for step in steps]
    assert kinds == ["", "", *["tick", "cut"] * 2, "", *["tick", "cut"] * 2, "", "tick", "cut", ""]
    assert [step.l1 for step in steps if isinstance(step, Train) and step.l1] == [1e-3] * 3
    assert cuts_of(steps) == list(exponential(0.9, 5))


def test_tick_tock_as_published_has_a_longer_budget() -> None:
    steps = played(tick_tock(0.9, 30, extra=True))
    assert epochs_of(steps) == [30, 10, *[1] * 10, 10, *[1] * 10, 10, 40]
    assert len(cuts_of(steps)) == 20


# ---- what holds for every schedule

CASES: dict[str, Callable[[float, int], Steps]] = {
    "after": after_training,
    "after in steps": partial(after_training, fractions=partial(exponential, steps=3), share=0.2),
    "before": before_training,
    "dense": lambda _, epochs: dense(epochs),
    "early": early,
    "early in steps": partial(early, fractions=halving, l1=1e-4),
    "rewind": rewind,
    "rewind to 0": partial(rewind, point=0),
    "rewind to 5": partial(rewind, point=5),
    "tick tock": tick_tock,
    "tick tock tock": partial(tick_tock, tock_every=1),
}
ANSWERS: tuple[list[bool], ...] = ([], [False, False, True], [True] * 3, [False] * 5 + [True])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("remove", [0.0, 0.3, 0.5, 0.88, 0.98])
def test_every_epoch_is_spent_and_the_target_met(name: str, remove: float) -> None:
    for epochs, answers in itertools.product(range(1, 41), ANSWERS):
        steps = played(CASES[name](remove, epochs), answers)
        assert sum(epochs_of(steps)) == epochs
        assert cuts_of(steps)[-1:] == ([] if name == "dense" else [remove])
        assert cuts_of(steps) == sorted(cuts_of(steps))
        assert isinstance(steps[-1], Train) or (epochs == 1 and name.startswith("tick"))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("answers", ANSWERS)
def test_the_same_answers_give_the_same_steps(name: str, answers: list[bool]) -> None:
    first, second = (played(CASES[name](0.9, 24), answers) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", CASES)
def test_an_answer_that_nobody_asked_for_changes_nothing(name: str) -> None:
    steps = CASES[name](0.9, 24)
    given = [next(steps)]
    while True:
        try:
            given.append(steps.send(False))
        except StopIteration:
            break
    assert given == played(CASES[name](0.9, 24))
    assert list(CASES[name](0.9, 24)) == given  # not answering is a no


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dense(0), "0 epochs"),
        (lambda: before_training(0.5, 0), "0 epochs; expected at least 1"),
        (lambda: before_training(1.0, 10), "a cut of 1; expected"),
        (lambda: before_training(-0.1, 10), "a cut of -0.1"),
        (lambda: after_training(0.5, 0), "0 epochs"),
        (lambda: after_training(0.5, 10, share=1.5), "share 1.5"),
        (lambda: early(0.5, 0), "0 epochs"),
        (lambda: early(0.5, 10, latest=-1), "expected 0 <= least <= latest"),
        (lambda: early(0.5, 10, least=-1), "expected 0 <= least <= latest"),
        (lambda: early(0.5, 10, latest=10), "at most 9"),
        (lambda: early(0.5, 10, l1=-1.0), "penalty -1"),
        (lambda: rewind(0.5, 0), "0 epochs"),
        (lambda: rewind(1.0, 10), "a cut of 1"),
        (lambda: rewind(0.5, 10, point=-1), "epoch -1"),
        (lambda: tick_tock(0.5, 0), "0 epochs"),
        (lambda: tick_tock(0.5, 10, ticks=0), "0 ticks"),
        (lambda: tick_tock(0.5, 10, ticks=10), "at most 9"),
        (lambda: tick_tock(0.5, 10, tock_every=0), "every 0"),
    ],
)
def test_nonsense_is_refused_before_the_first_step(make: Callable[[], Steps], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        next(make())


def test_schedules_need_no_torch() -> None:
    for path in Path(schedules.__file__).parent.glob("*.py"):
        assert "torch" not in path.read_text(encoding="utf-8"), path.name
