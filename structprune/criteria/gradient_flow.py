"""What |H g| and GraSP share: how the gradient flow changes with every gate, with its sign.

The gradient flow is half the squared norm of a gradient g, and its derivative is H g. To first order, a
variable x that becomes zero changes the flow by -x (H g)_x. Whose gradient is meant, that of the gates or
that of the effective weights, is what the gated model says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from structprune.curvature import Tensors, hessian_gradient, times
from structprune.gates import Flow, GatedModel
from structprune.scores import Batch, Sampling


def flow_change(gated: GatedModel, sampling: Sampling, unit: Sequence[Batch]) -> Tensors:
    """Return x (H g)_x for every gate, signed and shaped like the gates; 0 for those that are closed.

    g is the gradient of what is open: its other entries are zero before the product with H.

    Args:
        gated: the network with its gates.
        sampling: what L is taken on.
        unit: mini-batches whose derivatives are summed before the product.
    """
    return _BY_FLOW[gated.flow](gated, sampling, unit)


def _of_gates(gated: GatedModel, sampling: Sampling, unit: Sequence[Batch]) -> Tensors:
    """Return c * (H_cc g_c)."""
    c = gated.ones()
    return times(c, hessian_gradient(sampling.terms(gated, unit), c, within=c, crew=sampling.sharing))


def _of_weights(gated: GatedModel, sampling: Sampling, unit: Sequence[Batch]) -> Tensors:
    """Return W * (H_WW g_W), W = theta * c."""
    c = gated.ones(requires_grad=False)
    W = {name: weight.detach().requires_grad_() for name, weight in gated.effective(c).items()}
    terms = sampling.terms(gated, unit, scaled=W)
    return times(W, hessian_gradient(terms, W, within=c, crew=sampling.sharing))


_BY_FLOW: Mapping[Flow, Callable[[GatedModel, Sampling, Sequence[Batch]], Tensors]] = {
    "gates": _of_gates,
    "weights": _of_weights,
}
