"""Training with a method of pruning in it: the steps of a schedule, carried out one by one, resumable."""

from structprune.trainer.run import Trained, train
from structprune.trainer.session import Session, check

__all__ = ["Session", "Trained", "check", "train"]
