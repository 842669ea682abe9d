"""How wide each layer is: the numbers that pruning changes, by layer, and the tensor shapes they imply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from structprune.nn.layers import EMBEDDED, HEADS, TURNED, WHOLE, counted_down, is_turned, note_counted

Width = int | tuple[int, ...]
Widths = Mapping[str, Mapping[str, Width]]
"""Layer -> attribute -> number: ``{"conv1": {"in_channels": 3, "out_channels": 7, "groups": 1}}``."""

Shape = tuple[int, ...]

ATTRIBUTES: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.modules.conv._ConvNd: ("in_channels", "out_channels", "groups"),
    nn.Linear: ("in_features", "out_features"),
    nn.modules.batchnorm._NormBase: ("num_features",),
    nn.LayerNorm: ("normalized_shape",),
    nn.RMSNorm: ("normalized_shape",),
    nn.GroupNorm: ("num_groups", "num_channels"),
    nn.PReLU: ("num_parameters",),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    nn.MultiheadAttention: ("embed_dim", "kdim", "vdim", "num_heads", "head_dim"),
    nn.RNNBase: ("input_size", "hidden_size"),
    nn.RNNCellBase: ("input_size", "hidden_size"),
}


def widths_of(model: nn.Module, counted: Iterable[tuple[str, str]] = ()) -> Widths:
    """The widths of every layer that has any, in the network's order.

    Args:
        model: the network.
        counted: (module, attribute) of further numbers, in modules of any kind; those that cuts have made
            smaller already are among the widths anyway.

    Example:
        >>> widths_of(nn.Sequential(nn.Linear(4, 7), nn.ReLU()))
        {'0': {'in_features': 4, 'out_features': 7}}
    """
    further: dict[str, list[str]] = {}
    for layer, attribute in sorted({*counted, *counted_down(model)}):
        further.setdefault(layer, []).append(attribute)
    return {
        name: {attribute: _width(getattr(module, attribute)) for attribute in dict.fromkeys(attributes)}
        for name, module in model.named_modules()
        if (attributes := (*_attributes(module), *further.get(name, ())))
    }


def counted_in(widths: Widths, model: nn.Module) -> set[tuple[str, str]]:
    """Return (module, attribute) of the widths that are numbers of modules of any kind in a network."""
    modules = dict(model.named_modules())
    return {
        (layer, name)
        for layer, attributes in widths.items()
        for name in attributes
        if layer in modules and _is_numbers(vars(modules[layer]).get(name))
    }


def _is_numbers(value: object) -> bool:
    many = value if isinstance(value, (list, tuple)) else [value]
    return bool(many) and all(isinstance(v, int) and not isinstance(v, bool) for v in many)


def _attributes(module: nn.Module) -> tuple[str, ...]:
    known = next((names for kind, names in ATTRIBUTES.items() if isinstance(module, kind)), None)
    if known is not None:
        return known
    # Attentions and embeddings of any library, by the names under which they keep what a cut changes.
    held = vars(module)
    if is_turned(module):
        return tuple(name for name in TURNED if name in held)
    shaped = ("normalized_shape",) if isinstance(held.get("normalized_shape"), tuple) else ()
    return (*shaped, *(name for name in (*HEADS, *WHOLE, *EMBEDDED) if type(held.get(name)) is int))


def _width(value: Any) -> Width:
    return tuple(int(size) for size in value) if isinstance(value, Iterable) else int(value)


def set_widths(model: nn.Module, widths: Widths) -> None:
    """Write the widths into a network's layers; the tensors stay as they are."""
    for layer, attributes in widths.items():
        module = model.get_submodule(layer)
        for attribute, width in attributes.items():
            is_list = isinstance(getattr(module, attribute, None), list)
            setattr(module, attribute, list(width) if is_list and isinstance(width, tuple) else width)
            if attribute not in _attributes(module):
                note_counted(module, attribute)


def shapes_implied(module: nn.Module, widths: Mapping[str, Any]) -> Mapping[str, Shape]:
    """The shapes of a layer's tensors under other widths; empty for a layer without a rule of its own.

    Args:
        module: the layer, for its kind and its kernel.
        widths: attribute -> number, as in :data:`ATTRIBUTES`.
    """
    for kind, rule in RULES.items():
        if isinstance(module, kind):
            return rule(module, widths)
    return _turned(widths) if is_turned(module) else {}


def _transposed(module: Any, widths: Mapping[str, Any]) -> Mapping[str, Shape]:
    outputs = widths["out_channels"]
    weight_IOkk = (widths["in_channels"], outputs // widths["groups"], *module.kernel_size)
    return {"weight": weight_IOkk, "bias": (outputs,)}


def _convolution(module: Any, widths: Mapping[str, Any]) -> Mapping[str, Shape]:
    outputs = widths["out_channels"]
    weight_OIkk = (outputs, widths["in_channels"] // widths["groups"], *module.kernel_size)
    return {"weight": weight_OIkk, "bias": (outputs,)}


def _linear(module: Any, widths: Mapping[str, Any]) -> Mapping[str, Shape]:
    outputs = widths["out_features"]
    return {"weight": (outputs, widths["in_features"]), "bias": (outputs,)}


def _turned(widths: Mapping[str, Any]) -> Mapping[str, Shape]:
    bias = {"bias": (widths["nf"],)}
    return {**bias, "weight": (widths["nx"], widths["nf"])} if "nx" in widths else bias


def _norm(attribute: str) -> Callable[[Any, Mapping[str, Any]], Mapping[str, Shape]]:
    def rule(module: Any, widths: Mapping[str, Any]) -> Mapping[str, Shape]:
        width = widths[attribute]
        shape = width if isinstance(width, tuple) else (width,)
        return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), shape)

    return rule


# The first that matches; a transposed convolution is a convolution too.
RULES: Mapping[type[nn.Module], Callable[[Any, Mapping[str, Any]], Mapping[str, Shape]]] = {
    nn.modules.conv._ConvTransposeNd: _transposed,
    nn.modules.conv._ConvNd: _convolution,
    nn.Linear: _linear,
    nn.modules.batchnorm._NormBase: _norm("num_features"),
    nn.LayerNorm: _norm("normalized_shape"),
    nn.RMSNorm: _norm("normalized_shape"),
    nn.GroupNorm: _norm("num_channels"),
    nn.PReLU: _norm("num_parameters"),
}
