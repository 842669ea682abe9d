"""|H g|, the gradient-flow-preserving score of CroP and EarlyCroP (Rachwan et al., arXiv 2206.10451).

Removing what a gate stands for changes the gradient flow, half the squared gradient norm, by -H g to
first order. For channels there are two published forms, which rank differently: the poster's, of the gates'
own gradient, and the one that the authors' code runs, of the weights' gradient.
"""

from __future__ import annotations

from torch import Tensor

from structprune.nn.batch_norm import evaluating
from structprune.nn.layers import weighted_layers
from structprune.nn.precision import exact_arithmetic
from structprune.pruning.gates import GatedModel
from structprune.scoring.criteria.gradient_flow import flow_changes
from structprune.scoring.criteria.needs import needs
from structprune.scoring.curvature import hessian_gradient
from structprune.scoring.sampling import Sampling, accumulate
from structprune.scoring.scores import Scores, summed_up


@needs(adds_up=True)
def crop(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by |c (H_cc g_c)| on channel gates and by |W (H g)|, entry by entry, on weight gates.

    On channel gates Hessian and gradient are those of the loss with respect to the gates c (CroP-S), on
    weight gates with respect to the effective weights W = theta c (CroP-U), both of what is open only.
    """
    gates = gated.ones(requires_grad=False)
    with evaluating(gated.model, sampling.batch_norm), exact_arithmetic():
        return summed_up(sampling, accumulate(sampling, flow_changes(gated, sampling), gates), "crop")


@needs(adds_up=True)
def crop_gradflow(gated: GatedModel, sampling: Sampling) -> Scores:
    """Score by |H_ca g_a|, the gate derivative of half the gradient flow of the conv and linear weights a."""
    gates = gated.ones()
    weights = _weights(gated)
    with evaluating(gated.model, sampling.batch_norm), exact_arithmetic():
        signed = (
            hessian_gradient(
                sampling.terms(gated, unit, parameters=weights), gates, along=weights, crew=sampling.sharing
            )
            for unit in sampling.units()
        )
        return summed_up(sampling, accumulate(sampling, signed, gates), "crop_gradflow")


def _weights(gated: GatedModel) -> dict[str, Tensor]:
    parameters = dict(gated.model.named_parameters())
    names = (f"{name}.weight" for name, _ in weighted_layers(gated.model))
    return {name: parameters[name].detach().requires_grad_() for name in names if name in parameters}
