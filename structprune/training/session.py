"""What a training is asked for."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from structprune.choices import Precision
from structprune.data import Batches
from structprune.distributed import SINGLE_PROCESS, ProcessGroup
from structprune.errors import UsageError, argument
from structprune.scoring.samples import Samples
from structprune.scoring.sampling import MINI_BATCH
from structprune.scoring.score import Scoring
from structprune.training import schedules
from structprune.training.detectors import DETECTORS
from structprune.training.detectors.detector import Detector
from structprune.training.identity import fingerprint
from structprune.training.methods import Method
from structprune.training.optimiser import Recipe

Program = Generator[schedules.Step, bool | None, None]


@dataclass(frozen=True)
class Session:
    """A training with a method of pruning in it.

    Attributes:
        model: the network with its initial weights; it is never changed.
        example: inputs that it takes, with a batch dimension.
        name: the method's name.
        method: what is scored and removed, and when.
        remove: the fraction of the method's unit that is to go.
        epochs: in all.
        recipe: rate, batch size and so on.
        train: what trains.
        validation: held out of it for every choice, or None.
        samples: what scores; a part of what trains.
        steps: of the fractions, or None for the method's own.
        floor: the fraction of its width that every group keeps at least.
        align: widths become multiples of it, or stay.
        latest: the epoch after which an early cut comes anyway, or None for a quarter of all.
        published_length: train as long as the published code does, which is longer for some methods.
        published_detector: detect as the published code does.
        draws: weight draws of NTK-SAP.
        seed: of everything random.
        device: where it computes.
        precision: of training; scores are taken in float32 whatever this says.
        channels_last: lay images out with channels last.
        checkpoint: file that is written after every epoch, or None.
        crew: the processes that train together; the first of them writes.
    """

    model: nn.Module
    example: tuple[Tensor, ...]
    name: str
    method: Method
    remove: float
    epochs: int
    recipe: Recipe
    train: Batches
    samples: Samples
    validation: Batches | None = None
    steps: int | None = None
    floor: float = 0.02
    align: int = 1
    latest: int | None = None
    published_length: bool = False
    published_detector: bool = False
    draws: int = 5
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"
    channels_last: bool = False
    checkpoint: Path | None = None
    crew: ProcessGroup = SINGLE_PROCESS

    def program(self) -> Program:
        """Return the steps, anew from the first."""
        return PROGRAMS[self.method.schedule](self)

    def scoring(self, trained: bool, cuts: int) -> Scoring:
        """Return how the network is scored for its next cut.

        Args:
            trained: whether it has been trained by then.
            cuts: how many cuts there were, so that noise differs between them.
        """
        # The papers' forms; ours leaves it to whether the network is trained.
        published = self.method.accumulate is not None
        return Scoring(
            score=self.method.score,
            trained=trained,
            accumulate=self.method.accumulate,
            mini_batch=MINI_BATCH if published else None,
            labels="given" if published else None,
            draws=self.draws,
            seed=self.seed + 1000 * cuts,
            allocation=self.method.allocation,
        )

    def detector(self) -> Detector | None:
        """Return what tells when to cut, or None for methods that know."""
        if self.method.detector is None:
            return None
        structured = self.method.gates == "channels"
        if self.published_detector and self.method.detector == "lazy_regime":
            return DETECTORS["published_lazy_regime"](self.remove, structured)
        return DETECTORS[self.method.detector](self.remove, structured)

    def latest_epoch(self) -> int | None:
        """Return the epoch of an early cut whose detector doesn't fire; None leaves it to the schedule."""
        # Mask distance compares the masks of several epochs and says nothing before it has them; where that
        # would leave less than half of the training for the pruned network, the cut doesn't wait for it.
        memory = getattr(self.detector(), "memory", 0)
        if self.latest is not None or memory > self.epochs // 2:
            return self.latest
        return max(memory, self.epochs // 4) if memory else None

    def fractions(self) -> Callable[[float], Iterator[float]]:
        """Return the cumulative fractions of the cuts, as a function of the last."""
        steps = self.method.steps if self.steps is None else self.steps
        return FRACTIONS[self.method.fractions](steps)

    def fingerprint(self) -> dict[str, Any]:
        """Return what must be the same for a training to go on where another one stopped."""
        return fingerprint(self)

    def laid_out(self, model: nn.Module) -> nn.Module:
        """Return a network in the memory format that it is trained in."""
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def longest(self) -> tuple[int, int]:
        """Return the epochs of the whole program, and of those that a detector watches, if it never fires."""
        trains = [step for step in _steps_of(self) if isinstance(step, schedules.Train)]
        return sum(s.epochs for s in trains), sum(s.epochs for s in trains if s.watch)


FRACTIONS: Mapping[str, Callable[[int], Callable[[float], Iterator[float]]]] = {
    "one shot": lambda _: schedules.one_shot,
    "exponential": lambda steps: partial(schedules.exponential, steps=steps),
    "halving": lambda steps: partial(schedules.halving, steps=steps),
}

PROGRAMS: Mapping[str, Callable[[Session], Program]] = {
    "dense": lambda s: schedules.dense(s.epochs),
    "before": lambda s: schedules.before_training(s.remove, s.epochs, s.fractions()),
    "after": lambda s: schedules.after_training(s.remove, s.epochs, s.fractions()),
    "early": lambda s: schedules.early(
        s.remove, s.epochs, s.fractions(), latest=s.latest_epoch(), extra=s.published_length, l1=s.method.l1
    ),
    "rewind": lambda s: schedules.rewind(s.remove, s.epochs, extra=s.published_length),
    "tick tock": lambda s: schedules.tick_tock(s.remove, s.epochs, ticks=s.steps, extra=s.published_length),
}


def check(session: Session) -> None:
    """Refuse what can't be carried out, before anything is.

    Raises:
        UsageError: naming what is wrong and what to give instead.
    """
    if session.epochs < 1:
        raise UsageError(f"{session.epochs} epochs; expected 1 or more")
    if session.method.gates != "nothing" and not 0 < session.remove < 1:
        raise UsageError(f"{session.remove:g} is no fraction to remove; expected one between 0 and 1")
    least = 2 * session.crew.size
    if session.recipe.batch_size < least or len(session.train.images) < least:
        raise UsageError(
            f"batch size {session.recipe.batch_size} and {len(session.train.images)} training images for "
            f"{session.crew.size} processes; each needs 2 images a step, as batch norm can't train on one"
        )
    for option, given, applies in _options(session):
        if given and not applies:
            raise UsageError(f"{argument(option)} means nothing to the method {session.name}; leave it out")
    session.longest()


def _options(session: Session) -> Iterator[tuple[str, bool, bool]]:
    """Yield arguments, whether they were given, and whether the method has a use for them."""
    method = session.method
    in_steps = method.fractions != "one shot" or method.schedule == "tick tock"
    longer = method.schedule in ("early", "rewind", "tick tock")
    yield "steps", session.steps is not None, in_steps
    yield "latest", session.latest is not None, method.schedule == "early"
    yield "published_detector", session.published_detector, method.detector == "lazy_regime"
    yield "published_length", session.published_length, longer
    yield "align", session.align > 1, method.gates == "channels"


def _steps_of(session: Session) -> Iterator[schedules.Step]:
    """Walk through a program whose detector never fires; a schedule that makes no sense says so here."""
    program = session.program()
    step = next(program, None)
    while step is not None:
        yield step
        try:
            step = program.send(False if getattr(step, "watch", False) else None)
        except StopIteration:
            return
