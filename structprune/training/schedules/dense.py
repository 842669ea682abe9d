"""Nothing is cut: the network that all others are compared with."""

from __future__ import annotations

from structprune.training.schedules.steps import Steps, Train


def dense(epochs: int) -> Steps:
    """Train and never cut.

    Raises:
        UsageError: fewer than one epoch.

    Example:
        >>> list(dense(80))
        [Train(epochs=80, rate='schedule', only='all', l1=0.0, watch=False)]
    """
    yield Train(epochs)
