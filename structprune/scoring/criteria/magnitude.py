"""Weight magnitudes (Han et al., arXiv 1506.02626)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from structprune.pruning.gates import Flow, GatedModel
from structprune.scoring.criteria.filter_norm import filter_norm
from structprune.scoring.criteria.needs import needs
from structprune.scoring.sampling import Sampling
from structprune.scoring.scores import Scores, finished


@needs(targets=False, inputs="none")
def magnitude(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by absolute weights: |c w| on weight gates, mean |w| of the filters on channel gates."""
    return replace(_BY_FLOW[gated.flow](gated, sampling), criterion="magnitude")


def _of_weights(gated: GatedModel, sampling: Sampling) -> Scores:
    weights = gated.effective(gated.ones(requires_grad=False))
    return finished({name: weight.abs() for name, weight in weights.items()}, "magnitude")


_BY_FLOW: Mapping[Flow, Callable[[GatedModel, Sampling], Scores]] = {
    "gates": filter_norm,
    "weights": _of_weights,
}
