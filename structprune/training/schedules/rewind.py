"""Train, cut, rewind, again and again: lottery tickets (arXiv 1803.03635), rewound (arXiv 2003.02389)."""

from __future__ import annotations

from structprune.errors import UsageError
from structprune.pruning.fractions import exponential, rounds
from structprune.training.schedules.steps import Cut, Remember, Rewind, Steps, Train, check


def rewind(remove: float, epochs: int, point: int = 1, extra: bool = False) -> Steps:
    """Train to an early point, then round after round: train, cut, put the survivors back to that point.

    The published form (``extra``) loses 20 % of the survivors a round and trains ``epochs`` in every round.
    By default the rounds share one budget: as many of them as leave every training an epoch, no more than are
    published, the same share of survivors in each; what is to spare goes to the last training.

    Args:
        remove: the fraction to remove.
        epochs: in all; with ``extra``, of every training.
        point: epochs before the point to rewind to, at a constant rate, since that point is to be early in
            training and not the end of a short one. In budgets that don't leave an epoch before the cut and
            one after it, the point comes earlier; a single epoch is spent after the cut, without rewinding.
        extra: the published budget.

    Raises:
        UsageError: fewer than one epoch, a negative point, or a fraction outside [0, 1).

    Example:
        >>> [getattr(step, "epochs", type(step).__name__) for step in rewind(0.36, 10)]
        [1, 'Remember', 1, 'Cut', 'Rewind', 1, 'Cut', 'Rewind', 7]
    """
    check(remove, epochs)
    if point < 0:
        raise UsageError(f"rewinding to epoch {point}; expected 0 or more")
    published = list(rounds(remove))
    if extra:
        yield from _rounds(published, point, train=epochs, last=epochs)
    elif epochs == 1:
        yield Cut(remove)
        yield Train(1)
    else:
        point = min(point, epochs - 2)
        count = min(len(published), epochs - point - 1)
        yield from _rounds(list(exponential(remove, count)), point, train=1, last=epochs - point - count)


def _rounds(fractions: list[float], point: int, train: int, last: int) -> Steps:
    if point:
        yield Train(point, "constant")
    yield Remember()
    for fraction in fractions:
        yield Train(train)
        yield Cut(fraction)
        yield Rewind()
    yield Train(last)
