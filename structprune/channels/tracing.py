"""Reading torch-pruning's dependency graph; nothing else does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from structprune.channels.groups import Coupling
from structprune.channels.operations import operation_fault, repeats_channels, slices_space, view_fault
from structprune.errors import InputError
from structprune.layers import WEIGHTED, is_depthwise, out_width

# Kinds of graph nodes (torch-pruning's OPTYPE names) through which a cut is not exact or not possible.
_UNTRUSTED_KINDS = {
    "LN": "its channels are normalised together by a LayerNorm",
    "GN": "its channels are normalised together by a GroupNorm",
    "MHA": "its channels go through a packed attention",
    "LSTM": "its channels go through an LSTM",
    "EMBED": "its channels come from an embedding",
    "PARAMETER": "its channels meet a parameter that belongs to no known layer",
    "SPLIT": "its channels are split",
    "UNBIND": "its channels are unbound",
    "EXPAND": "its channels are expanded",
    "SLICE": "its channels are sliced",
}
_SIDES = ("producers", "consumers", "carriers")


@dataclass(frozen=True)
class Candidate:
    """A group as the graph has it, before anybody asked whether it can be trusted.

    Attributes:
        name: of the first layer that produces its channels.
        size: number of channels.
        producers: layers that write them.
        consumers: layers that read them.
        carriers: layers in between with an entry per channel.
        is_output: whether the network puts them out.
        fault: what in the graph forbids to cut them, or None.
    """

    name: str
    size: int
    producers: tuple[Coupling, ...]
    consumers: tuple[Coupling, ...]
    carriers: tuple[Coupling, ...]
    is_output: bool
    fault: str | None

    @property
    def couplings(self) -> tuple[Coupling, ...]:
        """Every layer that meets the channels, once a side."""
        return (*self.producers, *self.consumers, *self.carriers)


@dataclass(frozen=True)
class _Trace:
    """One traced pass.

    Attributes:
        groups: torch-pruning's groups with all of their channels.
        inner: backward nodes that are part of a linear layer's own computation.
        ends: backward nodes of the network's outputs, and the layers that returned them.
        inputs: the network's inputs, leaves of the graph.
    """

    groups: list[Any]
    inner: set[Any]
    ends: set[Any]
    inputs: tuple[Tensor, ...]


def candidates(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Candidate]:
    """Trace a network and read off every group of coupled channels.

    Args:
        model: a copy that may be traced: torch-pruning leaves it in evaluation mode.
        inputs: positional inputs.

    Raises:
        InputError: the network can't be traced.
    """
    names = {module: name for name, module in model.named_modules()}
    try:  # inputs that ask for a gradient show where channels meet the input itself, in a residual sum say
        traced = _trace(model, inputs, show_inputs=True)
    except InputError:  # a concatenation with such an input is more than torch-pruning can take
        traced = _trace(model, inputs, show_inputs=False)
    return [_read(items, names, traced) for items in traced.groups]


def _trace(model: nn.Module, inputs: tuple[Tensor, ...], show_inputs: bool) -> _Trace:
    import torch_pruning

    leaves = tuple(x.detach().clone().requires_grad_(show_inputs and x.is_floating_point()) for x in inputs)
    makers: dict[Any, nn.Module] = {}
    ends: set[Any] = set()

    def forward(net: nn.Module, args: tuple[Tensor, ...]) -> Any:
        with ExitStack() as stack:
            for module in net.modules():
                stack.callback(module.register_forward_hook(_note_maker(makers)).remove)
            # Clones, since a network may write into its inputs.
            outputs = net(*(x.clone() for x in args))
        made = [leaf.grad_fn for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        ends.update(fn for fn in made if fn is not None)
        ends.update(makers[fn] for fn in made if fn in makers)
        return outputs

    graph = torch_pruning.DependencyGraph()
    try:
        with torch.enable_grad():
            graph.build_dependency(model, leaves, forward_fn=forward, verbose=False)
            return _Trace(list(graph.get_all_groups()), _inner(makers), ends, leaves)
    except Exception as error:  # the graph raises whatever it stumbles over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the network can't be traced with inputs of shape {[tuple(x.shape) for x in inputs]}: {reason}; "
            "give an example input that its forward pass accepts (--input-size)"
        ) from error


def _inner(makers: Mapping[Any, nn.Module]) -> set[Any]:
    """On inputs with more than two dimensions a linear layer is a matrix product between two views."""
    steps = (fn for made in makers for fn, _ in made.next_functions if isinstance(makers[made], nn.Linear))
    return {fn for fn in steps if type(fn).__name__ in ("AddmmBackward0", "MmBackward0")}


def _note_maker(makers: dict[Any, nn.Module]) -> Callable[[nn.Module, Any, Any], None]:
    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, WEIGHTED) and isinstance(output, Tensor) and output.grad_fn is not None:
            makers[output.grad_fn] = module

    return note


def _read(items: Any, names: Mapping[nn.Module, str], traced: _Trace) -> Candidate:
    root = items[0].dep.target.module
    sides: dict[str, dict[str, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    for item in items:
        name, side = names.get(item.dep.target.module), _side(item.dep)
        if name is not None and side is not None:
            sides[side][name].update(zip(item.idxs, item.root_idxs, strict=True))
    written = [item.dep for item in items if _side(item.dep) != "consumers"]
    return Candidate(
        name=names[root],
        size=out_width(root),
        is_output=any(d.target.grad_fn in traced.ends or d.target.module in traced.ends for d in written),
        fault=_fault([item.dep.target for item in items], written, traced),
        **{side: tuple(_coupling(*row) for row in sides[side].items()) for side in _SIDES},
    )


def _side(dependency: Any) -> str | None:
    layer = dependency.target.module
    if not isinstance(layer, nn.Module):
        return None  # a loose parameter
    if is_depthwise(layer):
        return "producers"
    if isinstance(layer, WEIGHTED):
        return "producers" if "out_channels" in dependency.handler.__name__ else "consumers"
    return "carriers" if any(True for _ in (*layer.parameters(), *layer.buffers())) else None


def _coupling(layer: str, mapping: Mapping[int, int]) -> Coupling:
    channels = tuple(sorted(mapping))
    return Coupling(layer, channels, tuple(mapping[channel] for channel in channels))


def _fault(nodes: Iterable[Any], written: Iterable[Any], traced: _Trace) -> str | None:
    """Say what in the graph forbids to cut the channels that meet these nodes, or None."""
    nodes = list(nodes)
    # The channels of linear layers are the last dimension, those of convolutions the second.
    layers = [d.target.module for d in written if isinstance(d.target.module, WEIGHTED)]
    channels_last = all(isinstance(layer, nn.Linear) for layer in layers)
    for node in nodes:
        if node.grad_fn in traced.inner:
            continue
        fault = _node_fault(node, channels_last) or _input_fault(node, traced)
        if fault is not None:
            return fault
    kinds = {node.type.name for node in nodes}
    if "CONCAT" in kinds and any(n.type.name == "RESHAPE" and repeats_channels(n.grad_fn) for n in nodes):
        return "its channels are flattened beside a concatenation"
    return None


def _node_fault(node: Any, channels_last: bool) -> str | None:
    kind = node.type.name
    if kind == "SLICE" and slices_space(node.grad_fn):
        return None
    if kind in _UNTRUSTED_KINDS:
        return _UNTRUSTED_KINDS[kind]
    if kind == "RESHAPE":
        return view_fault(node.grad_fn, channels_last)
    if kind == "CONCAT":
        along_channels = getattr(node.grad_fn, "_saved_dim", 1) == 1
        return None if along_channels else "it is concatenated along a dimension that is not the channels"
    if kind == "ELEMENTWISE" and node.grad_fn is not None:
        return operation_fault(node.grad_fn, channels_last)
    return None


def _input_fault(node: Any, traced: _Trace) -> str | None:
    if node.type.name != "ELEMENTWISE" or node.grad_fn is None:
        return None
    leaves = (getattr(fn, "variable", None) for fn, _ in node.grad_fn.next_functions if fn is not None)
    if any(leaf is x for leaf in leaves if leaf is not None for x in traced.inputs):
        return "its channels are added to or multiplied with the network's input"
    return None
