"""Train, cut, fine-tune: EfficientConvNets (arXiv 1608.08710) and everything that wants a trained network."""

from __future__ import annotations

from structprune.errors import UsageError
from structprune.pruning.fractions import Fractions, one_shot
from structprune.training.schedules.steps import Cut, Steps, Train, check, training


def after_training(remove: float, epochs: int, fractions: Fractions = one_shot, share: float = 0.5) -> Steps:
    """Train, cut, and fine-tune what is left.

    Args:
        remove: the fraction to remove.
        epochs: in all. A single one is spent after the cut; of more, at least one before and one after.
        fractions: after each cut; there is no training in between.
        share: of the epochs, how many are fine-tuning.

    Raises:
        UsageError: fewer than one epoch, or a fraction outside [0, 1) or a share outside [0, 1].

    Example:
        >>> [getattr(step, "epochs", step) for step in after_training(0.89, 80, share=0.25)]
        [60, Cut(remove=0.89), 20]
    """
    check(remove, epochs)
    if not 0 <= share <= 1:
        raise UsageError(f"share {share:g} of the epochs for fine-tuning; expected 0 to 1")
    fine_tuning = max(1, min(round(share * epochs), epochs - 1))
    yield from training(epochs - fine_tuning)
    for fraction in fractions(remove):
        yield Cut(fraction)
    yield Train(fine_tuning)
