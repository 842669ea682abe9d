"""What |H g| and GraSP share: how the gradient flow changes with every gate, with its sign.

The gradient flow is half the squared norm of a gradient g, and its derivative is H g. To first order, a
variable x that becomes zero changes the flow by -x (H g)_x. Whose gradient is meant, that of the gates or
that of the effective weights, is what the gated model says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from structprune.pruning.gates import Flow, GatedModel
from structprune.scoring.curvature import Tensors, hessian_gradient, times
from structprune.scoring.sampling import Sampling


def flow_changes(gated: GatedModel, sampling: Sampling) -> Iterator[Tensors]:
    """Yield x (H g)_x for every gate, signed and shaped like the gates; 0 for those that are closed.

    g is the gradient of what is open: its other entries are zero before the product with H.

    Args:
        gated: the network with its gates.
        sampling: what L is taken on, and which derivatives are summed before the product.

    Yields:
        One for every pass, of several mini-batches side by side a row each.
    """
    return _BY_FLOW[gated.flow](gated, sampling)


def _of_gates(gated: GatedModel, sampling: Sampling) -> Iterator[Tensors]:
    """Yield c * (H_cc g_c)."""
    for c, terms in sampling.passes(gated):
        yield times(c, hessian_gradient(terms, c, within=c, crew=sampling.sharing))


def _of_weights(gated: GatedModel, sampling: Sampling) -> Iterator[Tensors]:
    """Yield W * (H_WW g_W), W = theta * c."""
    c = gated.ones(requires_grad=False)
    for unit in sampling.units():
        W = {name: weight.detach().requires_grad_() for name, weight in gated.effective(c).items()}
        terms = sampling.terms(gated, unit, scaled=W)
        yield times(W, hessian_gradient(terms, W, within=c, crew=sampling.sharing))


_BY_FLOW: Mapping[Flow, Callable[[GatedModel, Sampling], Iterator[Tensors]]] = {
    "gates": _of_gates,
    "weights": _of_weights,
}
