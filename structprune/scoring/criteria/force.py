"""FORCE (de Jorge et al., arXiv 2006.09081): SNIP whose pruned weights may come back."""

from __future__ import annotations

from structprune.nn.batch_norm import evaluating
from structprune.nn.precision import exact_arithmetic
from structprune.pruning.gates import GatedModel
from structprune.scoring.criteria.needs import needs
from structprune.scoring.curvature import gradient
from structprune.scoring.sampling import Sampling, accumulate
from structprune.scoring.scores import Scores, summed_up


@needs(regrows=True, adds_up=True)
def force(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by |dL/dc| at the gates as they stand, closed ones too: |theta dL/dW| with the dense theta.

    The loss is that of the masked network, W = theta c. Where all gates are open it is SNIP.
    """
    with evaluating(gated.model, sampling.batch_norm), exact_arithmetic():
        signed = (gradient(terms, gates) for gates, terms in sampling.passes(gated))
        return summed_up(sampling, accumulate(sampling, signed, gated.ones()), "force")
