"""Schedules: when a network is trained and cut, as generators of steps. No torch in here.

A schedule is one function in a file of its own: it yields steps and is sent the detector's answers. How one
cut is divided into several is a matter of fractions.
"""

from __future__ import annotations

from structprune.schedules.after_training import after_training
from structprune.schedules.before_training import before_training
from structprune.schedules.dense import dense
from structprune.schedules.early import early
from structprune.schedules.fractions import Fractions, exponential, halving, one_shot, rounds
from structprune.schedules.rewind import rewind
from structprune.schedules.steps import Cut, Remember, Rewind, Step, Steps, Train
from structprune.schedules.tick_tock import tick_tock

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
