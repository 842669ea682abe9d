r"""Hessian-gradient products, chunk by chunk.

With :math:`L = \sum_t L_t` over chunks and :math:`g = \nabla L`, double backward gives

.. math:: H g = \sum_t \nabla_c \langle \mathrm{stop}(g), \nabla_c L_t(c) \rangle,

so memory is that of one chunk whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from structprune.distributed import SINGLE_PROCESS, ProcessGroup
from structprune.pruning.gates import Gates
from structprune.scoring.sampling import Term

Tensors = dict[str, Tensor]


def gradient(terms: Sequence[Term], gates: Gates) -> Tensors:
    """Return dL/dc of the sum of terms, shaped like the gates; zeros where there are no terms."""
    return _summed(gates, (_grad(term(gates), gates) for term in terms))


def hessian_gradient(
    terms: Sequence[Term],
    gates: Gates,
    along: Gates | None = None,
    within: Gates | None = None,
    crew: ProcessGroup = SINGLE_PROCESS,
) -> Tensors:
    """Return the gate derivative of half the squared gradient norm.

    Args:
        terms: chunks of the loss, L = sum of terms.
        gates: name -> open gates c that require grad.
        along: the variables x whose gradient is meant, or None for the gates themselves.
        within: 0/1 tensors m shaped like the variables: the norm is of m * g, the gradient of what is there;
            None where all is.
        crew: the processes that share the terms; g is summed over all of them before the product, which is
            this process's part of it.

    Returns:
        H_cx g_x, shaped like the gates: H_cc g_c without ``along`` (the score of EarlyCroP, arXiv
        2206.10451, as its poster has it), H_ca g_a with ``along`` = a, the weights (what its code runs);
        in both m * g stands for g.
    """
    wrt = gates if along is None else along
    if len(terms) == crew.size == 1:  # one graph serves for g and for H g
        first = _grad(terms[0](gates), wrt, create_graph=True)
        return _grad(_dot(_projected(_detached(first), within), first), gates)
    own = _summed(wrt, (_grad(term(gates), wrt) for term in terms))
    g = _projected(crew.total(own), within)
    products = (_grad(_dot(g, _grad(term(gates), wrt, create_graph=True)), gates) for term in terms)
    return _summed(gates, products)


def _grad(scalar: Tensor, wrt: Gates, create_graph: bool = False) -> Tensors:
    if not scalar.requires_grad:  # nothing in it depends on any of them
        return {name: torch.zeros_like(x) for name, x in wrt.items()}
    grads = torch.autograd.grad(
        scalar, list(wrt.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(wrt, grads, strict=True))


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in a]).sum()


def _projected(g: Tensors, within: Gates | None) -> Tensors:
    return g if within is None else times(within, g)


def _detached(tensors: Tensors) -> Tensors:
    return {name: x.detach() for name, x in tensors.items()}


def times(gates: Gates, values: Mapping[str, Tensor]) -> Tensors:
    """Multiply values by the gates of the same names, entry by entry."""
    return {name: gates[name].detach() * value for name, value in values.items()}


def _summed(like: Gates, rows: Iterable[Tensors]) -> Tensors:
    return summed(rows) or {name: torch.zeros_like(x) for name, x in like.items()}


def summed(rows: Iterable[Tensors]) -> Tensors:
    """Add up dicts of tensors under the same names."""
    total: Tensors = {}
    for row in rows:
        total = {name: total[name] + x if total else x for name, x in row.items()}
    return total
