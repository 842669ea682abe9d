"""Training with a method of pruning in it: the steps of a schedule, carried out one by one, resumable."""

from structprune.trainer.run import Trained, train
from structprune.trainer.sealed_file import check_replaceable
from structprune.trainer.sealed_file import remove as remove_checkpoint
from structprune.trainer.session import Session, check

__all__ = ["Session", "Trained", "check", "check_replaceable", "remove_checkpoint", "train"]
