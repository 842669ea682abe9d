"""Which channels leave together: groups of coupled layers, read off torch-pruning's dependency graph.

This is the only reader of that graph. What comes out names layers and indices of the dense network and
nothing else, so that gates, choice and surgery need neither the graph nor another traced pass.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from structprune.errors import InputError
from structprune.layers import WEIGHTED, Conv, conv_groups, in_width, is_depthwise, out_width, weighted_layers
from structprune.report import Protected


@dataclass(frozen=True)
class Coupling:
    """Where one layer meets the channels of a group.

    Attributes:
        layer: the layer's name in the model.
        channels: the layer's own input or output indices.
        gates: for each of them, the channel of the group that it carries. A flatten in front of a linear
            layer gives one gate to several inputs; a concat gives the layer only some of its inputs.
    """

    layer: str
    channels: tuple[int, ...]
    gates: tuple[int, ...]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that leave together from every layer that writes, carries or reads them.

    Attributes:
        name: that of the first layer that produces the channels.
        size: number of channels, C.
        producers: conv and linear layers that write the channels (depthwise ones too): a channel costs
            one node for each.
        consumers: conv and linear layers that read them; here sit the gates.
        carriers: layers in between with an entry per channel: batch norms, PReLUs.
        divisor: channels leave in multiples of it, the same number in each contiguous C / divisor block
            (the largest number of conv groups among the layers).
    """

    name: str
    size: int
    producers: tuple[Coupling, ...]
    consumers: tuple[Coupling, ...]
    carriers: tuple[Coupling, ...] = ()
    divisor: int = 1

    @cached_property
    def costs(self) -> tuple[int, ...]:
        """Nodes that leave with each channel, C entries."""
        nodes = [0] * self.size
        for producer in self.producers:
            for gate in producer.gates:
                nodes[gate] += 1
        return tuple(nodes)


@dataclass(frozen=True)
class ChannelGroups:
    """The groups of a network, and what is not in any.

    Attributes:
        groups: every group that can be cut.
        protected: layers whose outputs are never cut, with the reason.
        widths: layer -> outputs, of every layer that has nodes: all conv and linear layers but those
            that produce the network's outputs.
        outputs: layers that produce the network's outputs.
    """

    groups: tuple[ChannelGroup, ...]
    protected: tuple[Protected, ...]
    widths: Mapping[str, int]
    outputs: tuple[str, ...]

    @property
    def nodes(self) -> int:
        """Number of nodes: output channels and units of every layer in ``widths``."""
        return sum(self.widths.values())

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> ChannelGroup:
        return self.groups[index]


# What an operation between layers may do to channels so that cutting them stays exact. torch-pruning
# takes every operation that it doesn't know for element-wise; here a name that is not listed protects
# whatever touches it. A rule gets the backward node and the number of dimensions, and returns whether
# the channel dimension (1, or the last of up to three) is left alone.
def _keeps_channels(node: Any, dims: int) -> bool:
    return True


def _pads_space_only(node: Any, dims: int) -> bool:
    # Pairs from the last dimension backwards; the channel dimension is the pair after all spatial ones.
    return not any(node._saved_pad[2 * (dims - 2) :])


def _reduces_space_only(node: Any, dims: int) -> bool:
    saved = node._saved_dim
    reduced = saved if isinstance(saved, (tuple, list)) else (saved,)
    # A negative dimension is saved as an unsigned 64-bit number.
    signed = [d - 2**64 if d >= 2**63 else d for d in reduced]
    return bool(signed) and _channel_dim(dims) not in {d % dims for d in signed}


_ANY_CHANNEL = (
    "Abs",
    "AdaptiveAvgPool1D",
    "AdaptiveAvgPool2D",
    "AdaptiveAvgPool3D",
    "AdaptiveMaxPool2D",
    "Add",
    "Alias",
    "AvgPool2D",
    "AvgPool3D",
    "Celu",
    "Clamp",
    "Clone",
    "Div",
    "Dropout",
    "Elu",
    "Exp",
    "FusedDropout",
    "Gelu",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyRelu",
    "LogSigmoid",
    "MaxPool2DWithIndices",
    "MaxPool3DWithIndices",
    "Mish",
    "MkldnnMaxPool2D",
    "Mul",
    "NativeDropout",
    "Neg",
    "Permute",
    "Pow",
    "ReflectionPad1D",
    "ReflectionPad2D",
    "Relu",
    "ReplicationPad2D",
    "Rsub",
    "Sigmoid",
    "Silu",
    "Softplus",
    "Softshrink",
    "Sqrt",
    "Squeeze",
    "Sub",
    "T",
    "Tanh",
    "Threshold",
    "ToCopy",
    "Transpose",
    "Unsqueeze",
    "UpsampleBicubic2D",
    "UpsampleBilinear2D",
    "UpsampleNearest1D",
    "UpsampleNearest2D",
    "UpsampleNearest3D",
    "UpsampleNearestExact2D",
)
_SPACE_ONLY = ("Mean", "Sum", "Amax", "Max", "Var", "Softmax", "LogSoftmax", "LinalgVectorNorm")
_OPERATIONS = {
    **dict.fromkeys(_ANY_CHANNEL, _keeps_channels),
    **dict.fromkeys(_SPACE_ONLY, _reduces_space_only),
    "ConstantPadNd": _pads_space_only,
}

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


def channel_groups(model: nn.Module, example: Tensor | Sequence[Tensor]) -> ChannelGroups:
    """Find the groups of channels that can be cut, by tracing one pass over an example.

    The model is not touched; the trace runs on a copy.

    Args:
        model: the network.
        example: one input with its batch dimension, (N, C, H, W) for an image network, or several.

    Returns:
        The groups, the protected layers with reasons, and the layers that have nodes.

    Raises:
        InputError: the network can't be traced.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 2))
        >>> groups = channel_groups(net, torch.zeros(1, 3, 4, 4))
        >>> [(group.name, group.size, [c.layer for c in group.consumers]) for group in groups]
        [('0', 8, ['3'])]
        >>> groups.nodes, groups.outputs
        (8, ('3',))
    """
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    traced = copy.deepcopy(model).requires_grad_(True)
    names = {module: name for name, module in traced.named_modules()}
    candidates = [_Candidate.read(items, names, ends) for items, ends in _trace(traced, inputs)]
    layers = dict(weighted_layers(traced))
    outputs = {c.layer for candidate in candidates if candidate.is_output for c in candidate.producers}
    reasons = _reasons(candidates, layers, outputs)
    groups = tuple(c.group(layers) for c in candidates if not c.is_output and c.name not in reasons)
    return ChannelGroups(
        groups=groups,
        protected=tuple(_protected(candidates, groups, layers, reasons, outputs)),
        widths={name: out_width(layer) for name, layer in layers.items() if name not in outputs},
        outputs=tuple(name for name in layers if name in outputs),
    )


@dataclass(frozen=True)
class _Candidate:
    """A group as the graph has it, before anybody asked whether it can be trusted."""

    name: str
    size: int
    producers: tuple[Coupling, ...]
    consumers: tuple[Coupling, ...]
    carriers: tuple[Coupling, ...]
    is_output: bool
    fault: str | None

    @staticmethod
    def read(items: Any, names: Mapping[nn.Module, str], ends: Set[Any]) -> _Candidate:
        root = items[0].dep.target.module
        sides: dict[str, dict[str, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
        for item in items:
            name = names.get(item.dep.target.module)
            side = _side(item.dep)
            if name is not None and side is not None and item.root_idxs is not None:
                sides[side][name].update(zip(item.idxs, item.root_idxs, strict=True))
        couplings = {side: tuple(_coupling(*row) for row in sides[side].items()) for side in _SIDES}
        return _Candidate(
            name=names[root],
            size=out_width(root),
            is_output=any(_side(i.dep) != "consumers" and i.dep.target.grad_fn in ends for i in items),
            fault=next(filter(None, (_fault(item.dep.target) for item in items)), None),
            **couplings,
        )

    def group(self, layers: Mapping[str, nn.Module]) -> ChannelGroup:
        divisor = math.lcm(*(conv_groups(layers[c.layer]) for c in _grouped(self, layers)))
        return ChannelGroup(self.name, self.size, self.producers, self.consumers, self.carriers, divisor)


_SIDES = ("producers", "consumers", "carriers")


def _side(dependency: Any) -> str | None:
    layer = dependency.target.module
    if is_depthwise(layer):
        return "producers"
    if isinstance(layer, WEIGHTED):
        return "producers" if "out_channels" in dependency.handler.__name__ else "consumers"
    return "carriers" if any(True for _ in layer.parameters()) or _has_buffers(layer) else None


def _has_buffers(layer: nn.Module) -> bool:
    return any(True for _ in layer.buffers())


def _coupling(layer: str, mapping: Mapping[int, int]) -> Coupling:
    channels = tuple(sorted(mapping))
    return Coupling(layer, channels, tuple(mapping[channel] for channel in channels))


def _trace(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[Any, Set[Any]]]:
    """Return torch-pruning's groups with all of their channels, and the backward nodes of the outputs."""
    import torch_pruning

    ends: set[Any] = set()

    def forward(net: nn.Module, args: tuple[Tensor, ...]) -> Any:
        outputs = net(*args)
        ends.update(leaf.grad_fn for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))
        return outputs

    graph = torch_pruning.DependencyGraph()
    try:
        with torch.enable_grad():
            graph.build_dependency(model, inputs, forward_fn=forward, verbose=False)
            return [(group, ends) for group in graph.get_all_groups()]
    except Exception as error:  # the graph raises whatever it stumbles over
        raise InputError(
            f"the network can't be traced with inputs of shape {[tuple(x.shape) for x in inputs]}: {error}; "
            "give an example input that its forward pass accepts (--input-size)"
        ) from error


def _fault(node: Any) -> str | None:
    """Say why channels that meet this node of the graph can't be cut, or None where they can."""
    kind = node.type.name
    if kind in _UNTRUSTED_KINDS:
        return _UNTRUSTED_KINDS[kind]
    if kind == "RESHAPE":
        return None if _is_flatten(node.grad_fn) else "its channels are reshaped"
    if kind == "CONCAT":
        saved = getattr(node.grad_fn, "_saved_dim", 1)
        return None if saved == 1 else "it is concatenated along a dimension that is not the channels"
    if kind == "ELEMENTWISE" and node.grad_fn is not None and not isinstance(node.module, nn.PReLU):
        return _operation_fault(node)
    return None


def _operation_fault(node: Any) -> str | None:
    # A module that torch-pruning does not register is recorded under its last operation.
    name = type(node.grad_fn).__name__
    operation = name.split("Backward")[0]
    rule = _OPERATIONS.get(operation)
    if rule is None:
        return f"its channels meet {name}, an operation that is not known to keep channels apart"
    dims = _input_dims(node.grad_fn)
    if dims is not None and not rule(node.grad_fn, dims):
        return f"its channels are mixed, moved or padded by {operation}"
    return None


def _input_dims(grad_fn: Any) -> int | None:
    for name in ("_saved_self_sym_sizes", "_saved_self"):
        saved = getattr(grad_fn, name, None)
        if saved is not None:
            return saved.dim() if isinstance(saved, Tensor) else len(saved)
    upstream = [fn for fn, _ in grad_fn.next_functions if fn is not None and fn._input_metadata]
    return len(upstream[0]._input_metadata[0].shape) if upstream else None


def _channel_dim(dims: int) -> int:
    return dims - 1 if dims <= 3 else 1


def _is_flatten(grad_fn: Any) -> bool:
    """Tell whether a view keeps or ends the spatial dimensions behind the channels: N C H W -> N CHW."""
    before = tuple(grad_fn._saved_self_sym_sizes)
    after = tuple(grad_fn._input_metadata[0].shape)
    if after[:2] == before[:2]:  # only space is rearranged, or a trailing 1 added or dropped
        return True
    return len(after) == 2 and len(before) > 2 and after[1] == math.prod(before[1:])


def _grouped(candidate: _Candidate, layers: Mapping[str, nn.Module]) -> list[Coupling]:
    couplings = (*candidate.producers, *candidate.consumers)
    return [c for c in couplings if conv_groups(layers[c.layer]) > 1 and not is_depthwise(layers[c.layer])]


def _reasons(
    candidates: Sequence[_Candidate], layers: Mapping[str, nn.Module], outputs: set[str]
) -> dict[str, str]:
    """Name the candidates that must not be cut, each with its reason."""
    reasons: dict[str, str] = {}
    owners: dict[tuple[str, int], str] = {}
    for candidate in candidates:
        reason = _reason(candidate, layers, outputs)
        if reason is not None:
            reasons[candidate.name] = reason
        for coupling in candidate.producers:
            for channel in coupling.channels:
                owner = owners.setdefault((coupling.layer, channel), candidate.name)
                if owner != candidate.name:
                    reasons |= dict.fromkeys((owner, candidate.name), "its channels are coupled in two ways")
    return reasons


def _reason(candidate: _Candidate, layers: Mapping[str, nn.Module], outputs: set[str]) -> str | None:
    if candidate.fault is not None:
        return candidate.fault
    if any(c.layer in outputs for c in candidate.producers):
        return "its channels are among the network's outputs"
    if not candidate.consumers:
        return "no layer with weights reads its channels"
    if any(not _meets_all(c, candidate.size, layers[c.layer]) for c in _grouped(candidate, layers)):
        return "a grouped convolution meets only part of its channels"
    if any(_is_lopsided(layers[c.layer]) for c in (*candidate.producers, *candidate.consumers)):
        return "a grouped convolution has one group per output but not one per input"
    return None


def _meets_all(coupling: Coupling, size: int, layer: nn.Module) -> bool:
    """Tell whether a grouped conv reads or writes just these channels, in their own order."""
    every = tuple(range(size))
    return coupling.channels == coupling.gates == every and size in (in_width(layer), out_width(layer))


def _is_lopsided(layer: nn.Module) -> bool:
    return isinstance(layer, Conv) and 1 < layer.groups == layer.out_channels != layer.in_channels


def _protected(
    candidates: Sequence[_Candidate],
    groups: Sequence[ChannelGroup],
    layers: Mapping[str, nn.Module],
    reasons: Mapping[str, str],
    outputs: set[str],
) -> Iterator[Protected]:
    cut = {producer.layer for group in groups for producer in group.producers}
    why = {c.layer: reasons[cand.name] for cand in candidates if cand.name in reasons for c in cand.producers}
    for name in layers:
        if name in outputs:
            yield Protected(name, "it produces the network's outputs")
        elif name not in cut:
            yield Protected(name, why.get(name, "the traced pass does not reach it"))
