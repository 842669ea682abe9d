"""Cut at initialisation, then train: SNIP, GraSP, SynFlow, NTK-SAP, CroP and CroPit."""

from __future__ import annotations

from structprune.pruning.fractions import Fractions, one_shot
from structprune.training.schedules.steps import Cut, Steps, Train, check


def before_training(remove: float, epochs: int, fractions: Fractions = one_shot) -> Steps:
    """Cut, perhaps in steps, and train what is left.

    Args:
        remove: the fraction to remove.
        epochs: in all.
        fractions: after each cut; there is no training in between.

    Raises:
        UsageError: fewer than one epoch, or a fraction outside [0, 1).

    Example:
        >>> list(before_training(0.89, 80))[0]
        Cut(remove=0.89)
    """
    check(remove, epochs)
    for fraction in fractions(remove):
        yield Cut(fraction)
    yield Train(epochs)
