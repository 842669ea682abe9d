"""SNIP (Lee et al., arXiv 1810.02340); on channel gates it is SNAP (Verdenius et al., arXiv 2006.00896)."""

from __future__ import annotations

from structprune.nn.batch_norm import evaluating
from structprune.nn.precision import exact_arithmetic
from structprune.pruning.gates import GatedModel
from structprune.scoring.criteria.needs import needs
from structprune.scoring.curvature import gradient, times
from structprune.scoring.sampling import Sampling, accumulate
from structprune.scoring.scores import Scores, summed_up


@needs(adds_up=True)
def snip(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by |c dL/dc|: how much the loss moves when an open gate closes, to first order.

    A gate that is closed scores 0: what is gone stays gone.
    """
    with evaluating(gated.model, sampling.batch_norm), exact_arithmetic():
        signed = (times(gates, gradient(terms, gates)) for gates, terms in sampling.passes(gated))
        return summed_up(sampling, accumulate(sampling, signed, gated.ones()), "snip")
