"""SynFlow (Tanaka et al., arXiv 2006.05467): the flow through a network of absolute values, without data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from structprune.nn.batch_norm import evaluating
from structprune.nn.precision import exact_arithmetic
from structprune.pruning.gates import GatedModel, Gates
from structprune.scoring.criteria.needs import needs
from structprune.scoring.curvature import gradient, times
from structprune.scoring.sampling import Sampling
from structprune.scoring.scores import Scores, finished


@needs(targets=False, inputs="shape")
def synflow(gated: GatedModel, sampling: Sampling) -> Scores:
    r"""Score by |c dR/dc|, R the sum of all outputs for one input of ones, all parameters made positive.

    .. math:: R(c) = \sum_k f_k(1; |\theta| c)

    Parameters and floating-point buffers, running means too, are their absolute values, as the authors have
    it; batch norms use the network's own statistics. Integer inputs stay as they are: no token is one.

    Everything is computed in float64, and the scores stay in it: products over many layers leave the range
    of float32.
    """
    gates = {name: gate.double().requires_grad_() for name, gate in gated.ones(requires_grad=False).items()}
    parameters = _positive(gated.model.named_parameters())
    buffers = _positive(gated.model.named_buffers())
    inputs = tuple(_ones(x[:1]) for x in sampling.batches[0].inputs)

    def R(c: Gates) -> Tensor:  # noqa: N802
        output = sampling.run(gated, c, inputs, parameters=parameters, buffers=buffers)
        leaves = (leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        return torch.stack([leaf.sum() for leaf in leaves if leaf.is_floating_point()]).sum()

    with evaluating(gated.model), exact_arithmetic():
        slopes = gradient([R], gates)
    return finished({name: flow.abs() for name, flow in times(gates, slopes).items()}, "synflow")


def _positive(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {name: x.detach().double().abs() for name, x in named if x.is_floating_point()}


def _ones(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.float64) if x.is_floating_point() else x
