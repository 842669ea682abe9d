"""Training, with or without a method of pruning in it, resumable. Read epoch first, then session and run."""

from structprune.training.evaluation import evaluate
from structprune.training.finetuning import Progress, finetune
from structprune.training.optimiser import Recipe
from structprune.training.recipes import RECIPES
from structprune.training.run import Trained, train
from structprune.training.sealed_file import check_replaceable
from structprune.training.sealed_file import remove as remove_checkpoint
from structprune.training.session import Session, check

__all__ = [
    "RECIPES",
    "Progress",
    "Recipe",
    "Session",
    "Trained",
    "check",
    "check_replaceable",
    "evaluate",
    "finetune",
    "remove_checkpoint",
    "train",
]
