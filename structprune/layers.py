"""What the layers of torch.nn are to pruning: which have nodes, and which attributes hold their widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

BatchNorm = _BatchNorm
Conv = _ConvNd
ConvTranspose = _ConvTransposeNd
Norm = _NormBase
"""Batch norms and instance norms."""
Recurrent: TypeAlias = nn.RNNBase | nn.RNNCellBase
Attention = nn.MultiheadAttention
WEIGHTED = (_ConvNd, nn.Linear)
"""Layers that have nodes and prunable weights."""

# Attributes that count the heads of an attention, that (by how they end) hold the width of one, that hold the
# width of all, and that of an embedding.
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
HEAD_WIDTHS = ("head_dim", "head_size")
WHOLE = ("attn_dim", "all_head_size", "inner_dim")
EMBEDDED = ("hidden_dim",)


_COUNTED = "_counted_down"


def note_counted(module: nn.Module, attribute: str) -> None:
    """Note that a number of a module is not what its class made it, so that it is saved with the widths."""
    vars(module)[_COUNTED] = tuple(dict.fromkeys((*vars(module).get(_COUNTED, ()), attribute)))


def counted_down(model: nn.Module) -> set[tuple[str, str]]:
    """Return (module, attribute) of every number of a network that cuts have made smaller."""
    return {(name, a) for name, module in model.named_modules() for a in vars(module).get(_COUNTED, ())}


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) of every conv and linear layer, a layer that is used twice once."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, WEIGHTED))


def node_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) of every layer that has nodes.

    To conv and linear layers come recurrent ones, with a node a hidden unit, layer and direction, and
    attentions with a packed projection, with a node a row of it.
    """
    return ((name, layer) for name, layer in model.named_modules() if _has_nodes(layer))


def _has_nodes(layer: nn.Module) -> bool:
    if isinstance(layer, Recurrent):
        return getattr(layer, "proj_size", 0) == 0
    if isinstance(layer, Attention):
        return layer.in_proj_weight is not None and layer.bias_k is None and not layer.add_zero_attn
    return isinstance(layer, WEIGHTED)


def batch_norms(model: nn.Module) -> Iterator[tuple[str, BatchNorm]]:
    """Yield (name, layer) of every batch norm that keeps running statistics."""
    for name, layer in model.named_modules():
        if isinstance(layer, BatchNorm) and layer.running_mean is not None:
            yield name, layer


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight of a conv or linear layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def out_width(layer: nn.Module) -> int:
    """Return the number of nodes: output channels of a conv, output features of a linear layer.

    For a recurrent layer hidden units times layers and directions, for an attention its projection's rows.
    """
    if isinstance(layer, Recurrent):
        return layer.hidden_size * stages(layer)
    if isinstance(layer, Attention):
        return len(layer.in_proj_weight)
    return int(layer.out_channels if isinstance(layer, Conv) else layer.out_features)  # type: ignore[arg-type]


def in_width(layer: nn.Module) -> int:
    """Return how much a layer reads: input channels of a conv, input features of a linear layer.

    A recurrent layer reads its own units too, after its inputs, numbered as its outputs are.
    """
    if isinstance(layer, Recurrent):
        return layer.input_size + out_width(layer)
    if isinstance(layer, Attention):
        return int(layer.in_proj_weight.shape[1])
    return int(layer.in_channels if isinstance(layer, Conv) else layer.in_features)  # type: ignore[arg-type]


def stages(layer: Recurrent) -> int:
    """Return layers times directions of a recurrent layer, 1 for a cell: how often its units are there."""
    return 1 if isinstance(layer, nn.RNNCellBase) else layer.num_layers * (2 if layer.bidirectional else 1)


def recurrent_reads(layer: Recurrent) -> Mapping[str, Tensor]:
    """Return weight name -> which of what the layer reads each of its columns multiplies.

    Inputs come first, then the units: of layer 0 forwards, of layer 0 backwards, of layer 1 and so on.
    """
    inputs = torch.arange(layer.input_size)
    if isinstance(layer, nn.RNNCellBase):
        return {"weight_ih": inputs, "weight_hh": layer.input_size + torch.arange(layer.hidden_size)}
    directions = 2 if layer.bidirectional else 1
    units_SH = layer.input_size + torch.arange(out_width(layer)).reshape(-1, layer.hidden_size)
    reads: dict[str, Tensor] = {}
    for stage in range(stages(layer)):
        number, backwards = divmod(stage, directions)
        suffix = f"l{number}" + ("_reverse" if backwards else "")
        below = units_SH[(number - 1) * directions : number * directions].flatten() if number else inputs
        reads |= {f"weight_ih_{suffix}": below, f"weight_hh_{suffix}": units_SH[stage]}
    return reads


def conv_groups(layer: nn.Module) -> int:
    """Return the number of conv groups; 1 for any other layer."""
    return int(layer.groups) if isinstance(layer, Conv) else 1


def is_depthwise(layer: nn.Module) -> bool:
    """Tell whether every input channel has its own filter, so that a channel goes in and comes out."""
    return (
        isinstance(layer, Conv)
        and layer.groups > 1
        and layer.groups == layer.in_channels == layer.out_channels
    )
