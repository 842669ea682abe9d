"""Training and judging networks."""

from structprune.training.evaluation import evaluate
from structprune.training.loop import Progress, finetune
from structprune.training.optimiser import Recipe

__all__ = ["Progress", "Recipe", "evaluate", "finetune"]
