"""FORCE (de Jorge et al., arXiv 2006.09081): SNIP whose pruned weights may come back."""

from __future__ import annotations

from structprune.arithmetic import exact_arithmetic
from structprune.batch_norm import evaluating
from structprune.criteria.needs import needs
from structprune.curvature import gradient
from structprune.gates import GatedModel
from structprune.scores import Sampling, Scores, accumulate, summed_up


@needs(regrows=True, adds_up=True)
def force(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by |dL/dc| at the gates as they stand, closed ones too: |theta dL/dW| with the dense theta.

    The loss is that of the masked network, W = theta c. Where all gates are open it is SNIP.
    """
    with evaluating(gated.model, sampling.batch_norm), exact_arithmetic():
        signed = (gradient(terms, gates) for gates, terms in sampling.passes(gated))
        return summed_up(sampling, accumulate(sampling, signed, gated.ones()), "force")
