"""SNIP (Lee et al., arXiv 1810.02340); on channel gates it is SNAP (Verdenius et al., arXiv 2006.00896)."""

from __future__ import annotations

from structprune.batch_norm import evaluating
from structprune.curvature import exact_arithmetic, gradient
from structprune.gates import GatedModel
from structprune.scores import Sampling, Scores, accumulate, finished


def snip(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by |dL/dc| at c = 1: how much the loss moves when the gate closes, to first order."""
    gates = gated.ones()
    with evaluating(gated.model, sampling.batch_norm), exact_arithmetic():
        signed = (gradient(sampling.terms(gated, unit), gates) for unit in sampling.units())
        return finished(accumulate(sampling.accumulate, signed), "snip")
