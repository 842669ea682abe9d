"""Ticks that train the gates and cut a little, tocks that train everything: GateDecorators (1909.08174)."""

from __future__ import annotations

from dataclasses import dataclass

from structprune.errors import UsageError
from structprune.pruning.fractions import exponential
from structprune.training.schedules.steps import Cut, Steps, Train, check, training

TOCK_L1 = 1e-3
"""The paper's penalty on batch-norm scales in a tock; there is none in ticks and in the last training."""


@dataclass(frozen=True)
class _Budget:
    """Epochs of the parts, 0 for a part that there is no time for."""

    pretraining: int
    ticks: int
    tock: int
    last: int


def tick_tock(
    remove: float, epochs: int, ticks: int | None = None, tock_every: int = 10, extra: bool = False
) -> Steps:
    """Pretrain, tock, then ticks with a cut each and a tock after every few, then train what is left.

    A tick trains batch norms and linear layers for one epoch before the gates are scored (GateDecorators,
    arXiv 1909.08174). The paper takes 0.5 % of the remaining filters a tick, for
    hundreds of them; here every tick takes the same share of the survivors, such that the last one meets the
    target.

    Args:
        remove: the fraction to remove.
        epochs: in all: about a third before the first tick, a quarter as ticks, the rest half for tocks and
            half at the end. Tiny budgets do without tocks, then without pretraining; a single epoch is a tick
            and nothing follows its cut. With ``extra``, those of pretraining.
        ticks: how many; None: a quarter of the epochs, with ``extra`` 20.
        tock_every: ticks between tocks.
        extra: the published budget: tocks of 10 epochs, 40 epochs at the end.

    Raises:
        UsageError: fewer than one epoch, tick, or tick between tocks, more ticks than epochs allow, or a
            fraction outside [0, 1).

    Example:
        >>> steps = tick_tock(0.75, 8)
        >>> [f"{s.epochs} {s.only}" if isinstance(s, Train) else round(s.remove, 3) for s in steps]
        ['2 all', '2 all', '1 gates', 0.5, '1 gates', 0.75, '2 all']
    """
    check(remove, epochs)
    if tock_every < 1 or (ticks is not None and ticks < 1):
        raise UsageError(f"{ticks} ticks, a tock after every {tock_every}; expected at least 1 of each")
    budget = _Budget(epochs, ticks or 20, 10, 40) if extra else _shared(epochs, ticks, tock_every)
    yield from training(budget.pretraining)
    yield from _tock(budget)
    for tick, fraction in enumerate(exponential(remove, budget.ticks), start=1):
        yield Train(1, only="gates")
        yield Cut(fraction)
        if tick % tock_every == 0:
            yield from _tock(budget)
    yield from training(budget.last)


def _shared(epochs: int, ticks: int | None, tock_every: int) -> _Budget:
    """Divide one budget: every part gets its share, the last training what is left, an epoch if it can."""
    ticks = ticks or max(1, epochs // 4)
    if ticks > max(1, epochs - 1):
        raise UsageError(
            f"{ticks} ticks leave nothing of {epochs} epochs for the pruned network; "
            f"expected at most {max(1, epochs - 1)}"
        )
    pretraining = max(0, min(epochs // 3, epochs - ticks - 1))
    rest = epochs - pretraining - ticks
    tocks = 1 + ticks // tock_every
    tock = max(rest // (2 * tocks), int(rest > tocks))
    return _Budget(pretraining, ticks, tock, rest - tocks * tock)


def _tock(budget: _Budget) -> Steps:
    if budget.tock:
        yield Train(budget.tock, l1=TOCK_L1)
