"""Schedules: when a network is trained and cut, as generators of steps. Nothing here computes.

A schedule is one function in a file of its own: it yields steps and is sent the detector's answers. How one
cut is divided into several is a matter of fractions.
"""

from __future__ import annotations

from structprune.pruning.fractions import Fractions, exponential, halving, one_shot, rounds
from structprune.training.schedules.after_training import after_training
from structprune.training.schedules.before_training import before_training
from structprune.training.schedules.dense import dense
from structprune.training.schedules.early import early
from structprune.training.schedules.rewind import rewind
from structprune.training.schedules.steps import Cut, Remember, Rewind, Step, Steps, Train
from structprune.training.schedules.tick_tock import tick_tock

__all__ = [
    "Cut",
    "Fractions",
    "Remember",
    "Rewind",
    "Step",
    "Steps",
    "Train",
    "after_training",
    "before_training",
    "dense",
    "early",
    "exponential",
    "halving",
    "one_shot",
    "rewind",
    "rounds",
    "tick_tock",
]
