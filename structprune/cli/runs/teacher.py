"""Whether the dense network teaches while the cut one is fine-tuned."""

from __future__ import annotations

from torch import nn

from structprune.cli.options import FinetuneOptions
from structprune.cli.runs.gather import Gathered
from structprune.training import evaluate

LEAST_RIGHT = 0.5
"""Of the scoring images, what a network must get right to teach unasked: one that is wrong more often than
right, such as a zoo's network on other people's classes, would teach its mistakes."""


def teacher_of(options: FinetuneOptions, gathered: Gathered) -> tuple[nn.Module | None, tuple[str, ...]]:
    """Return the network that teaches, or None, and what a reader of the report must know of it.

    Where nobody says, a trained network that knows the images teaches: after mending, an epoch on labels
    alone takes back what mending gave, and one with a teacher doesn't (``benchmarks.recovery``).
    """
    model, images = gathered.network.model, gathered.images
    if images is None or not options.finetune or options.distill is False:
        return None, ()
    if options.distill:
        return model, ("fine-tuned on the labels and on what the dense network says of the images",)
    if not gathered.scoring.trained:
        return None, ()
    right = evaluate(model, images.score)
    knows = f"it is right on {100 * right:.1f} % of the scoring images"
    if right < LEAST_RIGHT:
        return None, (f"the dense network doesn't teach: {knows}; --distill says otherwise",)
    return model, (f"the dense network teaches while fine-tuning: {knows}; --no-distill says otherwise",)
