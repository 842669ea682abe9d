"""The tiny networks with gates and samples: for the code under test, and the same for the oracles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from structprune.channels import channel_groups
from structprune.choices import Accumulate, BatchNormMode
from structprune.nn.layers import batch_norms, weight_of, weighted_layers
from structprune.pruning.gates import GatedModel, gate_channels, gate_weights
from structprune.scoring.sampling import Batch, Sampling
from structprune.scoring.scores import Scores
from tests.networks import CLASSES, NETWORKS, example
from tests.oracles.forward import FORWARDS, GATES
from tests.oracles.scores import Setting

Kind = Literal["channels", "weights", "masked weights"]
KINDS: tuple[Kind, ...] = ("channels", "weights", "masked weights")
OPEN = 0.4
"""Fraction of the gates that the masks leave open."""
SIZES = (4, 3, 2)
"""Of the mini-batches: uneven, so that a mean of means is not the mean."""
NAMES = {network.__name__: network for network in NETWORKS}


def network(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A tiny network, its batch norms with scales and shifts of their own, like trained ones."""
    torch.manual_seed(1)
    model = NAMES[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """Batch-norm buffers that nothing computed: positive variances, means around zero."""
    generator = torch.Generator().manual_seed(2)
    given: dict[str, Tensor] = {}
    for name, layer in batch_norms(model):
        assert layer.running_mean is not None
        width, like = layer.num_features, layer.running_mean
        given[f"{name}.running_mean"] = (0.2 * torch.randn(width, generator=generator)).to(like)
        given[f"{name}.running_var"] = (0.5 + torch.rand(width, generator=generator)).to(like)
        given[f"{name}.num_batches_tracked"] = torch.tensor(1)
    return given


def samples(name: str, sizes: tuple[int, ...] = SIZES, dtype: torch.dtype = torch.float64) -> list[Batch]:
    x = example(NAMES[name], sum(sizes)).to(dtype)  # the same numbers in every precision
    labels = torch.randint(CLASSES, (sum(sizes),), generator=torch.Generator().manual_seed(3))
    parts = zip(torch.split(x, list(sizes)), torch.split(labels, list(sizes)), strict=True)
    return [Batch((part,), y) for part, y in parts]


def sampling(
    name: str,
    model: nn.Module,
    *,
    sizes: tuple[int, ...] = SIZES,
    chunk: int = 2,
    accumulate: Accumulate = "total",
    batch_norm: BatchNormMode = "fixed",
    draws: int = 3,
    trained: bool = False,
) -> Sampling:
    dtype = next(model.parameters()).dtype
    return Sampling(
        batches=tuple(samples(name, sizes, dtype)),
        loss=cross_entropy,
        chunk=chunk,
        accumulate=accumulate,
        batch_norm=batch_norm,
        statistics=statistics(model) if batch_norm == "fixed" else None,
        trained=trained,
        real=trained,
        draws=draws,
        seed=5,
    )


def gated(name: str, model: nn.Module, kind: Kind, on_inputs: bool = False) -> GatedModel:
    """The network with gates on its channels (on weights, or on inputs) or on its weights."""
    if kind != "channels":
        return gate_weights(model, masks(model, kind))
    groups = channel_groups(model, example(NAMES[name], dtype=next(model.parameters()).dtype))
    sizes = {layer: 0 for layer, _ in weighted_layers(model)} if on_inputs else {}
    return gate_channels(model, groups, sizes)


def masks(model: nn.Module, kind: Kind) -> dict[str, Tensor]:
    """Random masks where there are any: bool, True for what stays."""
    if kind != "masked weights":
        return {}
    generator = torch.Generator().manual_seed(4)
    weights = {f"{name}.weight": weight_of(layer) for name, layer in weighted_layers(model)}
    return {name: torch.rand(w.shape, generator=generator) < OPEN for name, w in weights.items()}


def by_hand(name: str, model: nn.Module, kind: Kind, taken_on: Sampling) -> Setting:
    """The same network, gates and samples for the oracles."""
    values = {key: p.detach() for key, p in model.named_parameters()}
    shapes = {key: torch.Size([size]) for key, size in GATES[name].items()}
    if kind != "channels":
        shapes = {key: value.shape for key, value in values.items() if value.dim() > 1}
    return Setting(
        forward=FORWARDS[name],
        values=values,
        channels=GATES[name],
        gates=shapes,
        batches=[(batch.inputs[0], batch.target) for batch in taken_on.batches],
        statistics=taken_on.statistics,
        masks=masks(model, kind),
    )


def end_to_end(scores: Scores, over: GatedModel, setting: Setting) -> Tensor:
    """Lay scores end to end in the order of the oracle's gates, (number of gates,)."""
    return torch.cat([scores.values[key].flatten() for key in in_order(over, setting.gates)])


def in_order(over: GatedModel, gates: Mapping[str, torch.Size]) -> list[str]:
    """Name the gates of the gated model in the order of the oracle's, by a layer that they stand for."""
    if not over.producers:
        return list(gates)
    owner = {layer: key for key, rows in over.producers.items() for layer, _, _ in rows}
    return [owner[first] for first in gates]
