"""Cutting: channels leave for good, by torch-pruning's layer functions.

Every index names a channel of the dense network and every layer is cut once per side, so no cut can
shift the indices of another.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroup, ChannelGroups, Coupling, ExtraParameter, SizeAttribute
from structprune.nn.attention import fit_heads
from structprune.nn.layers import (
    TURNED,
    Attention,
    Conv,
    ConvTranspose,
    Norm,
    Recurrent,
    conv_groups,
    is_depthwise,
    is_turned,
    normalises,
    note_counted,
    recurrent_reads,
)
from structprune.pruning.budget import Plan

Row = TypeVar("Row", Coupling, ExtraParameter, SizeAttribute)
Cuts = dict[str, set[int]]
"""Layer name -> dense indices that leave."""


def shrink(model: nn.Module, groups: ChannelGroups, plan: Plan) -> nn.Module:
    """Remove the channels that a plan does not keep.

    Args:
        model: the dense network; it stays as it is.
        groups: its groups of channels.
        plan: what stays of each.

    Returns:
        A copy that is smaller, a plain module that trains and saves like any other.
    """
    small = copy.deepcopy(model)
    layers = dict(small.named_modules())
    for name, channels in cuts(groups, plan, "consumers").items():
        _cut_inputs(layers[name], sorted(channels))
    for side in ("producers", "carriers"):
        for name, channels in cuts(groups, plan, side).items():
            _cut_outputs(layers[name], sorted(channels))
    for (name, dim), channels in _loose_cuts(groups, plan).items():
        _cut_loose(small, name, dim, channels)
    for (name, attribute, index), numbers in _size_cuts(groups, plan).items():
        if numbers:
            _count_down(layers[name], attribute, index, len(numbers))
    # A cut makes new parameters, which ask for gradients.
    for name, parameter in model.named_parameters():
        small.get_parameter(name).requires_grad_(parameter.requires_grad)
    return fit_heads(small)


def cuts(groups: ChannelGroups, plan: Plan, side: str) -> Cuts:
    """Return layer -> dense indices that leave it, for its ``producers``, ``consumers`` or ``carriers``."""
    gone: Cuts = defaultdict(set)
    for group in groups:
        for coupling in _couplings(group, side):
            gone[coupling.layer] |= _leaving(coupling, plan.keep[group.name])
    return {name: channels for name, channels in gone.items() if channels}


def _loose_cuts(groups: ChannelGroups, plan: Plan) -> dict[tuple[str, int], set[int]]:
    """Return (parameter or buffer, dimension) -> indices that leave it."""
    gone: dict[tuple[str, int], set[int]] = defaultdict(set)
    for group in groups:
        for row in group.loose:
            gone[row.tensor, row.dim] |= _leaving(row, plan.keep[group.name])
    return {key: channels for key, channels in gone.items() if channels}


def _size_cuts(groups: ChannelGroups, plan: Plan) -> dict[tuple[str, str, int | None], set[int]]:
    """Return (module, attribute, which of its numbers) -> what leaves of what it counts."""
    gone: dict[tuple[str, str, int | None], set[int]] = defaultdict(set)
    for group in groups:
        for row in group.sizes:
            gone[row.module, row.attribute, row.index] |= _leaving(row, plan.keep[group.name])
    return gone


def _count_down(module: nn.Module, attribute: str, index: int | None, count: int) -> None:
    """Make a number that a module holds smaller, by itself or in a list or tuple."""
    held = getattr(module, attribute)
    note_counted(module, attribute)
    if index is None:
        setattr(module, attribute, held - count)
    else:
        numbers = [size - count if i == index else size for i, size in enumerate(held)]
        setattr(module, attribute, type(held)(numbers))


def _leaving(row: Coupling | ExtraParameter | SizeAttribute, keep: Tensor) -> set[int]:
    stays = keep.tolist()
    return {c for c, gate in zip(row.channels, row.gates, strict=True) if not stays[gate]}


def _couplings(group: ChannelGroup, side: str) -> tuple[Coupling, ...]:
    return {"producers": group.producers, "consumers": group.consumers, "carriers": group.carriers}[side]


def _cut_outputs(layer: nn.Module, channels: list[int]) -> None:
    import torch_pruning as tp

    if is_depthwise(layer):
        tp.prune_depthwise_conv_out_channels(layer, channels)
    elif isinstance(layer, ConvTranspose) and layer.groups > 1:
        _cut_grouped_transposed_outputs(layer, channels)
    elif isinstance(layer, Conv):
        tp.prune_conv_out_channels(layer, channels)
    elif isinstance(layer, nn.Linear):
        tp.prune_linear_out_channels(layer, channels)
    elif is_turned(layer):
        _cut_turned(layer, 1, channels)
    elif isinstance(layer, Norm):
        _cut_norm(layer, "num_features", channels)
    elif isinstance(layer, Recurrent):
        _cut_units(layer, channels)
    elif isinstance(layer, Attention):
        _cut_rows(layer, channels)
    elif isinstance(layer, nn.GroupNorm):
        _cut_norm(layer, "num_channels", channels)
    elif normalises(layer):
        _cut_normalised(layer, channels)
    elif isinstance(layer, nn.PReLU):
        tp.prune_prelu_out_channels(layer, channels)
    else:
        raise TypeError(f"no way is known to cut the channels of a {type(layer).__name__}")


def _cut_inputs(layer: nn.Module, channels: list[int]) -> None:
    import torch_pruning as tp

    if isinstance(layer, nn.Linear):
        tp.prune_linear_in_channels(layer, channels)
    elif is_turned(layer):
        _cut_turned(layer, 0, channels)
    elif isinstance(layer, Recurrent):
        _cut_recurrent_inputs(layer, [c for c in channels if c < layer.input_size])
    elif isinstance(layer, Attention):
        _replace(layer, "in_proj_weight", 1, channels)
    elif conv_groups(layer) == 1:
        tp.prune_conv_in_channels(layer, channels)
    else:
        _cut_grouped_inputs(layer, channels)


def _cut_grouped_inputs(layer: nn.Module, channels: list[int]) -> None:
    # torch-pruning keeps in every conv group the positions that it keeps in the first one; here each
    # group loses its own.
    assert isinstance(layer, Conv)
    width = layer.in_channels // layer.groups
    keep = torch.ones(layer.in_channels, dtype=torch.bool)
    keep[channels] = False
    kept_GI = [torch.nonzero(row).flatten() for row in keep.reshape(layer.groups, width)]
    with torch.no_grad():
        weight = (
            _select_transposed(layer, keep) if isinstance(layer, ConvTranspose) else _select(layer, kept_GI)
        )
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=layer.weight.requires_grad)
    layer.in_channels -= len(channels)


def _cut_grouped_transposed_outputs(layer: ConvTranspose, channels: list[int]) -> None:
    # (I, O / G, k, k): torch-pruning takes the second dimension for all outputs.
    keep = torch.ones(layer.out_channels, dtype=torch.bool, device=layer.weight.device)
    keep[channels] = False
    blocks = layer.weight.detach().chunk(layer.groups, dim=0)
    kept = keep.chunk(layer.groups)
    weight = torch.cat([w[:, rows] for w, rows in zip(blocks, kept, strict=True)])
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[keep], requires_grad=layer.bias.requires_grad)
    layer.out_channels -= len(channels)


def _cut_recurrent_inputs(layer: Recurrent, inputs: list[int]) -> None:
    for key, reads in recurrent_reads(layer).items():
        gone = [i for i, column in enumerate(reads.tolist()) if column in set(inputs)]
        if gone:
            _replace(layer, key, 1, gone)
    layer.input_size -= len(inputs)


def _cut_units(layer: Recurrent, channels: list[int]) -> None:
    """Remove hidden units, the same of every layer and direction; a column goes where what it reads does."""
    width, units = layer.hidden_size, {c % layer.hidden_size for c in channels}
    first = layer.input_size
    for key, reads in recurrent_reads(layer).items():
        gone = [i for i, c in enumerate(reads.tolist()) if c >= first and (c - first) % width in units]
        _replace(layer, key, 1, gone)
    for key, parameter in list(layer.named_parameters(recurse=False)):
        _replace(layer, key, 0, [row for row in range(len(parameter)) if row % width in units])
    layer.hidden_size -= len(units)


def _cut_turned(layer: nn.Module, dim: int, channels: list[int]) -> None:
    """Remove inputs (0) or outputs (1) of a linear layer with a weight (I, O)."""
    _replace(layer, "weight", dim, channels)
    if dim == 1 and layer.bias is not None:
        _replace(layer, "bias", 0, channels)
    for attribute, along in TURNED.items():
        if along == dim and attribute in vars(layer):
            setattr(layer, attribute, vars(layer)[attribute] - len(channels))


def _cut_norm(layer: Norm | nn.GroupNorm, width: str, channels: list[int]) -> None:
    """Remove channels of a norm that has a number for each, or none at all."""
    for key in ("weight", "bias", "running_mean", "running_var"):
        if getattr(layer, key, None) is not None:
            _replace(layer, key, 0, channels)
    setattr(layer, width, getattr(layer, width) - len(channels))


def _cut_normalised(layer: nn.Module, channels: list[int]) -> None:
    known = ("weight", "bias") if isinstance(layer, nn.LayerNorm) else tuple(layer._parameters)
    for key in known:
        if getattr(layer, key, None) is not None:
            _replace(layer, key, 0, channels)
    shape = vars(layer).get("normalized_shape")
    if isinstance(shape, tuple):
        vars(layer)["normalized_shape"] = (shape[0] - len(channels),)


def _cut_rows(layer: Attention, rows: list[int]) -> None:
    _replace(layer, "in_proj_weight", 0, rows)
    if layer.in_proj_bias is not None:
        _replace(layer, "in_proj_bias", 0, rows)


def _replace(module: nn.Module, key: str, dim: int, gone: Iterable[int]) -> None:
    """Put a parameter or buffer without some of its entries in its own place."""
    tensor, left = getattr(module, key), set(gone)
    kept = torch.tensor([i for i in range(tensor.shape[dim]) if i not in left], device=tensor.device)
    with torch.no_grad():
        smaller = tensor.index_select(dim, kept)
    if isinstance(tensor, nn.Parameter):
        # By assignment, since recurrent layers keep a list of theirs.
        setattr(module, key, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
    else:
        setattr(module, key, smaller)


def _cut_loose(model: nn.Module, name: str, dim: int, channels: set[int]) -> None:
    owner, _, key = name.rpartition(".")
    module = model.get_submodule(owner)
    _replace(module, key, dim, channels)
    if isinstance(module, nn.Embedding) and dim == 1:
        module.embedding_dim -= len(channels)


def _select(layer: Conv, kept_GI: list[Tensor]) -> Tensor:
    blocks = layer.weight.chunk(layer.groups, dim=0)
    return torch.cat([w[:, kept.to(w.device)] for w, kept in zip(blocks, kept_GI, strict=True)])


def _select_transposed(layer: Conv, keep: Tensor) -> Tensor:
    return layer.weight[keep.to(layer.weight.device)]


def regrouped(groups: ChannelGroups, plan: Plan) -> ChannelGroups:
    """Return the groups of the shrunk network, under the same names, without tracing it.

    A trace could see other groups: a grouped conv with one channel a group looks like a depthwise one.
    """
    gone = {side: cuts(groups, plan, side) for side in ("producers", "consumers", "carriers")}

    gone_loose = defaultdict(set, _loose_cuts(groups, plan))
    gone_sizes = _size_cuts(groups, plan)

    def small(group: ChannelGroup) -> ChannelGroup:
        keep = plan.keep[group.name]

        def side(name: str) -> tuple[Coupling, ...]:
            left = gone[name]
            rows = _couplings(group, name)
            return tuple(_renumbered_row(row, keep, left.get(row.layer, set())) for row in rows)

        return replace(
            group,
            size=int(keep.sum()),
            producers=side("producers"),
            consumers=side("consumers"),
            carriers=side("carriers"),
            loose=tuple(_renumbered_row(row, keep, gone_loose[row.tensor, row.dim]) for row in group.loose),
            sizes=tuple(
                _renumbered_row(row, keep, gone_sizes[row.module, row.attribute, row.index])
                for row in group.sizes
            ),
        )

    nodes = {n: w - len(gone["producers"].get(n, ())) for n, w in groups.widths.items()}
    return replace(groups, groups=tuple(map(small, groups)), widths=nodes)


def _renumbered_row(row: Row, keep: Tensor, left: set[int]) -> Row:
    """The same coupling as the shrunk network has it.

    Args:
        row: a coupling of the dense network.
        keep: (C,) bool, which of its group's channels stay.
        left: dense indices that leave that side of the layer, those of other groups included.
    """
    numbers = _renumbered(max(row.channels) + 1, left)
    gates = (keep.cumsum(0) - 1).tolist()
    pairs = zip(row.channels, row.gates, strict=True)
    kept = [(numbers[c], gates[gate]) for c, gate in pairs if c not in left]
    return replace(row, channels=tuple(c for c, _ in kept), gates=tuple(gate for _, gate in kept))


def _renumbered(width: int, gone: set[int]) -> list[int]:
    """Position of every channel once some have left; that of one that left means nothing."""
    numbers, position = [], 0
    for channel in range(width):
        numbers.append(position)
        position += channel not in gone
    return numbers
