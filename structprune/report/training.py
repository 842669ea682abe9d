"""What a training was, as data: epochs, events, the detector."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training.

    Attributes:
        number: from 1 on, over the whole training.
        loss: mean over the steps.
        validation: top-1 on the validation images, in [0, 1], or None without any.
        rate: the learning rate of the last step.
        seconds: wall time.
    """

    number: int
    loss: float
    validation: float | None
    rate: float
    seconds: float


@dataclass(frozen=True)
class Event:
    """Something that happened between two epochs.

    Attributes:
        after: epochs done by then.
        what: ``cut``, ``rewound``, ``remembered``.
        removed: fraction of the method's unit that was gone afterwards.
    """

    after: int
    what: str
    removed: float


@dataclass(frozen=True)
class Detection:
    """How the moment of an early cut was found.

    Attributes:
        detector: its name.
        words: what it watches and when it fires.
        series: what it saw after each epoch.
        fired_after: epochs, or None where it never fired and the cut came at the latest epoch.
        latest: the epoch after which the cut comes anyway.
    """

    detector: str
    words: str
    series: tuple[float, ...]
    fired_after: int | None
    latest: int


@dataclass(frozen=True)
class Training:
    """A training with a method of pruning in it.

    Attributes:
        task: what was learned.
        recipe: how.
        epochs: how many in all.
        test: top-1 on the test images after the last epoch, in [0, 1]; taken once.
        test_images: how many.
        test_how: which these are, in words.
        best_epoch: with the best validation; the last one counts all the same.
        best_validation: top-1 of it, or None.
        validation_images: held out of the training images for every choice.
        log: one entry an epoch.
        events: cuts and what else happened.
        detection: or None for methods without a detector.
        seconds: wall time of training and pruning, without measuring.
        collapsed: layers that keep no weight at all.
        masked: whether weights are masked, which makes nothing faster.
    """

    task: str
    recipe: str
    epochs: int
    test: float
    test_images: int
    test_how: str
    best_epoch: int | None
    best_validation: float | None
    validation_images: int
    log: tuple[Epoch, ...]
    events: tuple[Event, ...]
    detection: Detection | None
    seconds: float
    collapsed: tuple[str, ...] = ()
    masked: bool = False
