"""NTK-SAP (Wang et al., arXiv 2304.02840): how little the neural tangent kernel's spectrum cares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from structprune.nn.batch_norm import Statistics, collect_statistics, evaluating
from structprune.nn.precision import exact_arithmetic
from structprune.nn.reinit import normal, own_weights, redrawn
from structprune.pruning.gates import GatedModel, Gates
from structprune.scoring.criteria.needs import needs
from structprune.scoring.curvature import summed, times
from structprune.scoring.sampling import MINI_BATCH, Batch, Sampling, mini_batches_of
from structprune.scoring.scores import Scores, finished

Parameters = dict[str, Tensor]


@needs(targets=False, noise="untrained", weight_draws=True, adds_up=True)
def ntk_sap(
    gated: GatedModel,
    sampling: Sampling,
    *,
    weights: Literal["redraw", "keep"] | None = None,
    inputs: Literal["noise", "data"] | None = None,
    epsilon: float = 0.01,
) -> Scores:
    r"""Score by |c dJ/dc|, so that a closed gate scores 0.

    .. math:: J(c) = \sum_{\theta, \Delta, Z} \lVert f(Z; \theta c) - f(Z; (\theta + \Delta) c) \rVert^2,

    is a Monte-Carlo estimate of the nuclear norm of the neural tangent kernel: for every draw new inputs Z,
    new weights and a new small step :math:`\Delta`. The derivative goes through both branches and is
    summed over draws before the absolute value.

    Args:
        gated: the network with its gates.
        sampling: gives the number and shape of inputs and, for data, the inputs themselves.
        weights: ``redraw`` takes Kaiming-normal weights for every draw, as the authors do, batch norms
            reset; ``keep`` the network's own. Default: redraw unless the network is trained, since
            redrawn weights make all channels of a layer alike.
        inputs: ``noise`` is standard normal, ``data`` the sampling's own. Default: data where the
            network is trained and there are any.
        epsilon: standard deviation of the step on every conv and linear weight.
    """
    keep = (weights or ("keep" if sampling.trained else "redraw")) == "keep"
    real = (inputs or ("data" if sampling.trained and sampling.real else "noise")) == "data"
    generator = torch.Generator().manual_seed(sampling.seed)
    gates = gated.ones()
    total = {name: torch.zeros_like(gate) for name, gate in gates.items()}
    with evaluating(gated.model), exact_arithmetic():
        draws = list(_draws(sampling))
        for number, batch in enumerate(draws):
            # Every process draws all random numbers and works on its share of the draws.
            drawn = batch if real else _noise(batch, generator)
            start = {} if keep else redrawn(gated.model, generator)
            stepped = _stepped(gated.model, start, epsilon, generator)
            if number % sampling.crew.size == sampling.crew.rank:
                for name, value in _draw(gated, sampling, gates, drawn, start, stepped).items():
                    total[name] += value
        total = sampling.crew.total(total)
    sums = {name: value.detach().cpu() for name, value in times(gates, total).items()}
    scores = finished({name: value.abs() for name, value in sums.items()}, "ntk_sap")
    return replace(scores, sums=sums, draws=len(draws))


@needs(targets=False, weight_draws=True, adds_up=True)
def ntk_sap_kept(gated: GatedModel, sampling: Sampling) -> Scores:
    """NTK-SAP at the network's own weights, trained or not, on the data where there are any."""
    return replace(ntk_sap(gated, sampling, weights="keep", inputs=_own(sampling)), criterion="ntk_sap_kept")


@needs(targets=False, inputs="shape", noise="always", weight_draws=True)
def ntk_sap_redrawn(gated: GatedModel, sampling: Sampling) -> Scores:
    """NTK-SAP as its authors run it: new weights for every draw, on noise, trained or not."""
    found = ntk_sap(gated, sampling, weights="redraw", inputs="noise")
    return replace(found, criterion="ntk_sap_redrawn")


def _own(sampling: Sampling) -> Literal["noise", "data"]:
    return "data" if sampling.real else "noise"


def _draw(
    gated: GatedModel,
    sampling: Sampling,
    gates: Gates,
    batch: Batch,
    start: Parameters,
    stepped: Parameters,
) -> Parameters:
    """dJ/dc of one draw; without weights of its own it takes the network's."""
    fixed = not start and sampling.batch_norm == "fixed"
    statistics = sampling.statistics if fixed else _statistics(gated, sampling, batch, start)
    branch = partial(_outputs, gated, sampling, statistics)
    chunks = (_derivative(branch, gates, start, stepped, c) for c in batch.chunks(sampling.chunk))
    return summed(chunks)


def _draws(sampling: Sampling) -> Iterator[Batch]:
    """Split the samples into mini-batches, at least ``draws`` of them."""
    yield from _split(sampling.batches, sampling.draws)


def draw_count(sampling_batches: Sequence[Batch], draws: int) -> int:
    """Return how many draws these mini-batches make where at least ``draws`` are asked for."""
    return sum(1 for _ in _split(sampling_batches, draws))


def _split(batches: Sequence[Batch], draws: int) -> Iterator[Batch]:
    size = max(1, sum(map(len, batches)) // draws)
    # Mini-batches may be smaller for the sake of other criteria; every draw costs new weights.
    for batch in batches if len(batches[0]) >= MINI_BATCH else mini_batches_of(batches):
        yield from batch.mini_batches(size)


def _noise(batch: Batch, generator: torch.Generator) -> Batch:
    def like(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x  # token ids and masks have no normal noise
        return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    return replace(batch, inputs=tuple(like(x) for x in batch.inputs))


def _stepped(model: nn.Module, start: Parameters, epsilon: float, generator: torch.Generator) -> Parameters:
    """The same parameters, with a normal step on every conv and linear weight."""
    stepped = dict(start)
    for name, own in own_weights(model):
        weight = start.get(name, own.detach())
        stepped[name] = weight + normal(weight, epsilon, generator)
    return stepped


def _statistics(gated: GatedModel, sampling: Sampling, batch: Batch, start: Parameters) -> Statistics:
    """Batch-norm statistics of this draw's weights on this draw's inputs, the same in both branches."""
    closed = gated.ones(requires_grad=False)

    def forward(buffers: Mapping[str, Tensor], one: Batch) -> object:
        return sampling.run(gated, closed, one.inputs, parameters=start, buffers=buffers)

    return collect_statistics(gated.model, forward, [batch])


def _outputs(
    gated: GatedModel,
    sampling: Sampling,
    statistics: Statistics | None,
    gates: Gates,
    parameters: Parameters,
    chunk: Batch,
) -> Tensor:
    out: Any = sampling.run(gated, gates, chunk.inputs, parameters=parameters, buffers=statistics)
    leaves = [leaf.flatten() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    return torch.cat([leaf for leaf in leaves if leaf.is_floating_point()])


def _derivative(
    branch: Any, gates: Gates, start: Parameters, stepped: Parameters, chunk: Batch
) -> Parameters:
    """dJ/dc of one chunk, through both branches."""
    apart = branch(gates, start, chunk) - branch(gates, stepped, chunk)
    grads = torch.autograd.grad(
        apart.square().sum(), list(gates.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(gates, grads, strict=True))
