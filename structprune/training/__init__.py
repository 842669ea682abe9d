"""Training and judging networks."""

from structprune.training.evaluation import evaluate
from structprune.training.loop import Progress, finetune
from structprune.training.optimiser import Recipe
from structprune.training.recipes import RECIPES

__all__ = ["RECIPES", "Progress", "Recipe", "evaluate", "finetune"]
