"""What a run consists of, as data: train, cut, remember, rewind.

A schedule is a generator of steps. It knows the budgets and nothing of networks: whoever runs it trains and
cuts, and sends back whether the detector fired after a step that asks (``Train.watch``). The same arguments
and the same answers give the same steps, so that a run is resumed by replaying its answers.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from structprune.errors import UsageError


@dataclass(frozen=True)
class Train:
    """Train.

    Attributes:
        epochs: how many, at least 1.
        rate: ``schedule`` goes through the whole learning-rate schedule, ``constant`` stays at the part of
            its peak that the recipe calls steady.
        only: ``gates`` trains batch-norm scales and shifts and linear layers, and nothing else.
        l1: strength of the penalty on the absolute values of batch-norm scales.
        watch: ask the detector afterwards and send its answer.
    """

    epochs: int
    rate: Literal["schedule", "constant"] = "schedule"
    only: Literal["all", "gates"] = "all"
    l1: float = 0.0
    watch: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.l1 < 0:
            raise UsageError(
                f"training of {self.epochs} epochs, penalty {self.l1:g}; expected at least 1 epoch, penalty 0"
            )


@dataclass(frozen=True)
class Cut:
    """Prune until ``remove`` is gone, a fraction of the dense network."""

    remove: float

    def __post_init__(self) -> None:
        if not 0 <= self.remove < 1:
            raise UsageError(f"a cut of {self.remove:g}; expected a fraction of at least 0 and below 1")


@dataclass(frozen=True)
class Remember:
    """Keep the current state of everything: the point to rewind to."""


@dataclass(frozen=True)
class Rewind:
    """Put what survives, batch norms and biases included, back to the point that is remembered."""


Step = Train | Cut | Remember | Rewind
Steps = Generator[Step, bool | None, None]
"""A schedule under way: yields steps, takes the detector's answers."""


def check(remove: float, epochs: int) -> None:
    """Refuse a budget that no schedule can spend.

    Raises:
        UsageError: fewer than one epoch, or a fraction outside [0, 1).
    """
    if epochs < 1:
        raise UsageError(f"{epochs} epochs; expected at least 1")
    Cut(remove)


def training(epochs: int) -> Steps:
    """Yield the training of so many epochs, or nothing for zero of them."""
    if epochs:
        yield Train(epochs)
