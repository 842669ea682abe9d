"""Train until a detector says that it is time, cut, train on: EarlyCroP and EarlyBird."""

from __future__ import annotations

from structprune.errors import UsageError
from structprune.pruning.fractions import Fractions, one_shot
from structprune.training.schedules.steps import Cut, Steps, Train, check


def early(
    remove: float,
    epochs: int,
    fractions: Fractions = one_shot,
    latest: int | None = None,
    least: int = 2,
    extra: bool = False,
    l1: float = 0.0,
) -> Steps:
    """Watch the training epoch by epoch, cut when the detector fires, and train what is left.

    The epochs before the cut run at a constant rate: under a warm-up the weights move further every epoch,
    and the detector of the lazy regime would see the rate and not the network. EarlyCroP (arXiv 2206.10451)
    and EarlyBird (arXiv 1909.11957) publish a longer budget: all epochs once more after the cut.

    Args:
        remove: the fraction to remove.
        epochs: in all; with ``extra``, those after the cut.
        fractions: after each cut; there is no training in between.
        latest: the epoch after which it is cut though the detector is silent; None: a quarter of the epochs,
            not before ``least``, and in tiny budgets so early that an epoch is left (a single epoch is spent
            after the cut, unwatched).
        least: the epoch before which nothing is cut, where ``latest`` is not before it.
        extra: the published budget.
        l1: penalty on batch-norm scales until the cut (EarlyBird: 1e-4).

    Raises:
        UsageError: fewer than one epoch, a fraction outside [0, 1), or ``latest`` so late that nothing is
            left for the pruned network.

    Example:
        >>> run = early(0.88, 80)
        >>> _ = next(run), run.send(False), run.send(False)
        >>> run.send(True), next(run).epochs
        (Cut(remove=0.88), 77)
    """
    check(remove, epochs)
    last = max(least, epochs // 4) if latest is None else latest
    if latest is None and not extra:
        last = min(last, epochs - 1)
    least = min(least, last)
    _check_window(least, last, None if extra else epochs)
    done, fired = 0, False
    while done < last and not (fired and done >= least):
        fired = bool((yield Train(1, "constant", l1=l1, watch=True)))
        done += 1
    for fraction in fractions(remove):
        yield Cut(fraction)
    yield Train(epochs if extra else epochs - done)


def _check_window(least: int, latest: int, epochs: int | None) -> None:
    if not 0 <= least <= latest:
        raise UsageError(
            f"a cut after epoch {least} at least, {latest} at most; expected 0 <= least <= latest"
        )
    if epochs is not None and latest >= epochs:
        raise UsageError(
            f"a cut after epoch {latest} at most leaves nothing of {epochs} epochs for the pruned network; "
            f"expected at most {epochs - 1}"
        )
