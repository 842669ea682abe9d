"""GraSP (Wang et al., arXiv 2002.07376): keep what the gradient flow would shrink without."""

from __future__ import annotations

from dataclasses import replace

from structprune.nn.batch_norm import evaluating
from structprune.nn.precision import exact_arithmetic
from structprune.pruning.gates import GatedModel
from structprune.scoring.criteria.gradient_flow import flow_changes
from structprune.scoring.sampling import Sampling
from structprune.scoring.scores import Scores, finished

TEMPERATURE = 200.0


def grasp(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by theta (H g), signed, of a loss whose logits are divided by 200; the largest stay.

    The paper removes the largest -theta (H g), which keeps the same weights. Always of the total: a sign has
    no sum of absolute values. Gates that are closed score 0, which lies in the middle of the others.
    """
    cooled = replace(sampling, temperature=TEMPERATURE, accumulate="total")
    with evaluating(gated.model, sampling.batch_norm), exact_arithmetic():
        return finished(sampling.crew.total(next(flow_changes(gated, cooled))), "grasp")
