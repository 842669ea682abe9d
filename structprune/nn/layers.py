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
"""Layers that have nodes and prunable weights; :func:`is_weighted` knows more."""
TURNED = {"nx": 0, "nf": 1}
"""Attribute of transformers' Conv1D -> the dimension of its weight (I, O) that it counts."""

# Attributes, by their whole names, that count the heads of an attention, that hold the width of one or of a
# part of one, that hold the width of all, and that of an embedding. The tables are long and grow.
# fmt: off
HEADS = (
    "num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads", "num_attn_heads", "num_head",
    "num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads",
)
HEAD_WIDTHS = (
    "head_dim", "head_size", "attention_head_size", "attention_head_dim", "dim_head", "d_head",
    "dim_per_head", "head_width", "key_value_proj_dim", "d_kv", "qk_head_dim", "v_head_dim", "k_head_dim",
    "dim_head_v", "values_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "linear_head_dim",
    "linear_key_head_dim", "linear_value_head_dim", "mamba_head_dim",
)
WHOLE = ("attn_dim", "all_head_size", "inner_dim", "val_attn_dim", "key_attn_dim", "q_size", "kv_size")
EMBEDDED = ("hidden_dim",)
# fmt: on


def is_turned(layer: nn.Module) -> bool:
    """Tell whether a layer is linear with a weight (I, O): transformers' Conv1D, by its name and shapes.

    Example:
        >>> is_turned(nn.Linear(2, 3))
        False
    """
    weight, outputs = getattr(layer, "weight", None), vars(layer).get("nf")
    named = any(kind.__name__ == "Conv1D" for kind in type(layer).__mro__)
    return named and isinstance(weight, Tensor) and weight.dim() == 2 and weight.shape[1] == outputs


def is_weighted(layer: nn.Module) -> bool:
    """Tell whether a layer is a conv or a linear one."""
    return isinstance(layer, WEIGHTED) or is_turned(layer)


_COUNTED = "_counted_down"


def note_counted(module: nn.Module, attribute: str) -> None:
    """Note that a number of a module is not what its class made it, so that it is saved with the widths."""
    vars(module)[_COUNTED] = tuple(dict.fromkeys((*vars(module).get(_COUNTED, ()), attribute)))


def counted_down(model: nn.Module) -> set[tuple[str, str]]:
    """Return (module, attribute) of every number of a network that cuts have made smaller."""
    return {(name, a) for name, module in model.named_modules() for a in vars(module).get(_COUNTED, ())}


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) of every conv and linear layer, a layer that is used twice once."""
    return ((name, layer) for name, layer in model.named_modules() if is_weighted(layer))


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
    return is_weighted(layer)


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
    if is_turned(layer):
        return int(weight_of(layer).shape[1])
    return int(layer.out_channels if isinstance(layer, Conv) else layer.out_features)  # type: ignore[arg-type]


def in_width(layer: nn.Module) -> int:
    """Return how much a layer reads: input channels of a conv, input features of a linear layer.

    A recurrent layer reads its own units too, after its inputs, numbered as its outputs are.
    """
    if isinstance(layer, Recurrent):
        return layer.input_size + out_width(layer)
    if isinstance(layer, Attention):
        return int(layer.in_proj_weight.shape[1])
    if is_turned(layer):
        return len(weight_of(layer))
    return int(layer.in_channels if isinstance(layer, Conv) else layer.in_features)  # type: ignore[arg-type]


def rows_of(layer: nn.Module, weight: Tensor) -> Tensor:
    """Return the weight of a conv or linear layer with its outputs first, but for transposed convs."""
    return weight.t() if is_turned(layer) else weight


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


def normalises(layer: nn.Module) -> bool:
    """Tell whether a layer may normalise channels together: LayerNorm, RMSNorm, a GroupNorm of one group.

    And norms that a library writes by itself, as transformers does its RMSNorms: modules of that name without
    any inside, with nothing but numbers a channel.
    """
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups == 1
    return isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) or is_written_norm(layer)


def normalised_width(layer: nn.Module) -> int:
    """Return how many channels a norm normalises together."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        return int(layer.normalized_shape[-1])
    return len(next(layer.parameters()))


def is_written_norm(layer: nn.Module) -> bool:
    """Tell whether a module is a norm of a library's own, by its name and its parameters."""
    own = list(layer.parameters())
    return (
        "norm" in type(layer).__name__.lower()
        and not isinstance(layer, (BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, *WEIGHTED))
        and not any(True for _ in layer.children())
        and not any(True for _ in layer.buffers())
        and bool(own)
        and all(x.dim() == 1 and len(x) == len(own[0]) for x in own)
    )


def is_depthwise(layer: nn.Module) -> bool:
    """Tell whether every input channel has its own filter, so that a channel goes in and comes out."""
    return (
        isinstance(layer, Conv)
        and layer.groups > 1
        and layer.groups == layer.in_channels == layer.out_channels
    )
