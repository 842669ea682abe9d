"""The score of GateDecorators (You et al., arXiv 1909.08174)."""

from __future__ import annotations

from dataclasses import replace

from structprune.pruning.gates import GatedModel
from structprune.scoring.criteria.needs import needs
from structprune.scoring.criteria.snip import snip
from structprune.scoring.sampling import Sampling
from structprune.scoring.scores import Scores


@needs(adds_up=True)
def gate_taylor(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by |c dL/dc| of every mini-batch, summed over the mini-batches, however others accumulate.

    The paper's gate stands behind the batch norm and ours where the channel is read. Between the two lies an
    activation: where it is positively homogeneous, f(a x) = a f(x) for a > 0, as rectifiers are, both have
    the same derivative.
    """
    return replace(snip(gated, replace(sampling, accumulate="abs")), criterion="gate_taylor")
