"""SNIP (Lee et al., arXiv 1810.02340); on channel gates it is SNAP (Verdenius et al., arXiv 2006.00896)."""

from __future__ import annotations

from structprune.arithmetic import exact_arithmetic
from structprune.batch_norm import evaluating
from structprune.criteria.needs import needs
from structprune.curvature import gradient, times
from structprune.gates import GatedModel
from structprune.scores import Sampling, Scores, accumulate, summed_up


@needs(adds_up=True)
def snip(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by |c dL/dc|: how much the loss moves when an open gate closes, to first order.

    A gate that is closed scores 0: what is gone stays gone.
    """
    with evaluating(gated.model, sampling.batch_norm), exact_arithmetic():
        signed = (times(gates, gradient(terms, gates)) for gates, terms in sampling.passes(gated))
        return summed_up(sampling, accumulate(sampling, signed, gated.ones()), "snip")
