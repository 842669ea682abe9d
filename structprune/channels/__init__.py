"""Which channels leave together: groups of coupled layers, read off a pass over labelled tensors.

What comes out names layers and indices of the dense network and nothing else, so that gates, choice and
surgery need neither the labels nor another traced pass.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module

import torch
from torch import Tensor, nn

from structprune.channels.candidates import Candidate
from structprune.channels.groups import ChannelGroup, ChannelGroups, Coupling, ExtraParameter, SizeAttribute
from structprune.channels.rules.call import MOST_INPUTS
from structprune.channels.sandbox import exhausted, isolated
from structprune.channels.subsampling import thinned
from structprune.channels.traced_pass import LIMITS, UNREACHED, candidates
from structprune.errors import InputError
from structprune.nn.folding import remedy
from structprune.nn.layers import (
    Conv,
    conv_groups,
    in_width,
    is_depthwise,
    node_layers,
    normalises,
    out_width,
)
from structprune.report.data import Protected

__all__ = ["ChannelGroup", "ChannelGroups", "Coupling", "ExtraParameter", "SizeAttribute", "channel_groups"]

Layers = Mapping[str, nn.Module]


def channel_groups(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    cut_padded: bool = False,
    embedding: bool = False,
) -> ChannelGroups:
    """Find the groups of channels that can be cut, by tracing one pass over an example.

    The model is not touched; the trace runs on a copy, in a process with limits on time and memory.

    Args:
        model: the network.
        example: one input with its batch dimension, (N, C, H, W) for an image network, or several.
        cut_padded: offer channels that are padded with zeros, as in a ResNet's shortcuts without parameters;
            those that meet the zeros stay.
        embedding: offer channels that a LayerNorm normalises together, as the width of a transformer. Mean
            and variance are over fewer then, so that a cut is not just what closed gates are.

    Returns:
        The groups, the protected layers with reasons, and the layers that have nodes.

    Raises:
        InputError: the network can't be traced, or not within three minutes and 4 GB beyond its own.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 2))
        >>> groups = channel_groups(net, torch.zeros(1, 3, 4, 4))
        >>> [(group.name, group.size, [c.layer for c in group.consumers]) for group in groups]
        [('0', 8, ['3'])]
        >>> groups.nodes, groups.outputs
        (8, ('3',))
    """
    given = (example,) if isinstance(example, Tensor) else tuple(example)
    inputs = tuple(x[:MOST_INPUTS] if x.dim() else x for x in given)
    import_module("scipy.sparse.csgraph")  # once here, and not in every process that traces
    copied = sum(x.nbytes for x in (*model.parameters(), *model.buffers()))
    found = isolated(
        lambda: _followed(model, inputs, cut_padded, embedding),
        replace(LIMITS, bytes=LIMITS.bytes + 2 * copied),
        "reading the channel groups off a pass of the network",
    )
    modules = dict(model.named_modules())
    layers = dict(node_layers(model))
    outputs = {c.layer for candidate in found if candidate.is_output for c in candidate.producers}
    reasons = _reasons(found, modules, outputs)
    groups = tuple(_group(c, modules) for c in found if not c.is_output and c.name not in reasons)
    return ChannelGroups(
        groups=groups,
        protected=(*_protected(found, groups, layers, reasons, outputs), *_other_weights(model, groups)),
        widths={name: out_width(layer) for name, layer in layers.items() if name not in outputs},
        outputs=tuple(name for name in layers if name in outputs),
    )


def _followed(
    model: nn.Module, inputs: tuple[Tensor, ...], cut_padded: bool, embedding: bool
) -> list[Candidate]:
    """Run the network on as few pixels as reach all of its layers."""
    *fewer, whole = thinned(inputs)
    for few in fewer:
        with suppress(InputError):
            found = candidates(_copied(model), few, cut_padded, embedding)
            if all(candidate.fault != UNREACHED for candidate in found):
                return found
    return candidates(_copied(model), whole, cut_padded, embedding)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a module that keeps a result of its own, say
        if exhausted(error):
            raise MemoryError from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"the network can't be copied, which cutting it takes: {reason}") from error


def _group(candidate: Candidate, layers: Layers) -> ChannelGroup:
    c = candidate
    divisor = _divisor(candidate, layers)
    assert divisor is not None  # else it has a reason not to be cut
    return ChannelGroup(
        c.name,
        c.size,
        c.producers,
        c.consumers,
        c.carriers,
        divisor,
        loose=c.loose,
        sizes=c.sizes,
        least=2 if any(normalises(layers[row.layer]) for row in c.carriers) else 1,
    )


def _divisor(candidate: Candidate, layers: Layers) -> int | None:
    """Return the least number of blocks of equal size that must lose as much as each other; None for none.

    A grouped convolution stays one if every conv group loses as many channels as the others. Where each
    meets the same gates equally often it does whatever leaves.
    """
    rows = [
        _per_conv_group(c, width, conv_groups(layers[c.layer]), candidate.size)
        for c, width in _widths(candidate, layers)
        if conv_groups(layers[c.layer]) > 1 and not is_depthwise(layers[c.layer])
    ]
    blocks = [d for d in range(1, candidate.size + 1) if candidate.size % d == 0] if rows else [1]
    return next((d for d in blocks if all(_is_even(counts_GC, d) for counts_GC in rows)), None)


def _per_conv_group(coupling: Coupling, width: int, groups: int, size: int) -> Tensor:
    """Count how often each conv group, of a layer that wide on this side, meets each gate: (G, C)."""
    where = torch.tensor(coupling.channels) // (width // groups) * size + torch.tensor(coupling.gates)
    return torch.bincount(where, minlength=groups * size).reshape(groups, size)


def _is_even(counts_GC: Tensor, blocks: int) -> bool:
    """Tell whether conv groups lose equally many channels where every block of gates loses as many."""
    apart_GBc = (counts_GC - counts_GC[:1]).reshape(len(counts_GC), blocks, -1)
    same = bool((apart_GBc == apart_GBc[..., :1]).all())
    return same and not bool(apart_GBc[..., 0].sum(1).any())


def _reasons(found: Sequence[Candidate], layers: Layers, outputs: set[str]) -> dict[str, str]:
    """Name the candidates that must not be cut, each with its reason."""
    tied = _tied(layers)
    reasons: dict[str, str] = {}
    for candidate in found:
        reason = _reason(candidate, layers, outputs, tied)
        if reason is not None:
            reasons[candidate.name] = reason
    return reasons


def _reason(candidate: Candidate, layers: Layers, outputs: set[str], tied: set[str]) -> str | None:
    for coupling in candidate.producers:
        if (how := remedy(layers[coupling.layer])) is not None:
            return how
    if candidate.fault is not None:
        return candidate.fault
    if any(c.layer in outputs for c in candidate.producers):
        return "its channels are among the network's outputs"
    if candidate.size == 1 and not candidate.consumers:
        return "it has a single channel"
    if not candidate.consumers:
        return "no layer with weights reads its channels"
    for coupling in candidate.couplings:
        if (how := remedy(layers[coupling.layer])) is not None:
            return f"{coupling.layer} meets its channels, and {how}"
    if any(c.layer in tied for c in candidate.couplings):
        return "a layer that meets its channels shares its weight with another"
    if _divisor(candidate, layers) is None:
        return "the conv groups of a grouped convolution meet different numbers of its channels"
    if any(_is_lopsided(layers[c.layer]) for c in (*candidate.producers, *candidate.consumers)):
        return "a grouped convolution has one group per output but not one per input"
    return None


def _tied(layers: Layers) -> set[str]:
    """Names of the layers whose weight another layer owns too."""
    weights = {name: getattr(layer, "weight", None) for name, layer in layers.items()}
    owners = Counter(id(weight) for weight in weights.values() if weight is not None)
    return {name for name, weight in weights.items() if owners[id(weight)] > 1}


def _widths(candidate: Candidate, layers: Layers) -> Iterator[tuple[Coupling, int]]:
    """Yield the layers that write and read the channels, each with its width on that side."""
    yield from ((c, out_width(layers[c.layer])) for c in candidate.producers)
    yield from ((c, in_width(layers[c.layer])) for c in candidate.consumers)


def _is_lopsided(layer: nn.Module) -> bool:
    return isinstance(layer, Conv) and 1 < layer.groups == layer.out_channels != layer.in_channels


def _other_weights(model: nn.Module, groups: Sequence[ChannelGroup]) -> Iterator[Protected]:
    """Name weights of no kind that is cut and that no group cuts along: a module's, or single parameters."""
    layers = dict(node_layers(model))
    cut = {row.tensor for group in groups for row in group.loose}
    for name, module in model.named_modules():
        own = [(f"{name}.{key}" if name else key, p) for key, p in module.named_parameters(recurse=False)]
        weights = [key for key, p in own if sum(size > 1 for size in p.shape) > 1 and key not in cut]
        if name in layers or _inside_any(name, layers):
            continue
        kind = type(module).__name__
        if not name or any(True for child in module.children() for _ in child.parameters()):
            reason = f"a parameter of {kind} itself, of no convolution or linear layer"
            yield from (Protected(key, reason) for key in weights)
        elif weights:
            yield Protected(name, f"{kind} has weights, and is no kind of layer whose nodes are cut")


def _inside_any(name: str, layers: Layers) -> bool:
    return any(name.startswith(f"{layer}.") for layer in layers)


def _protected(
    found: Sequence[Candidate],
    groups: Sequence[ChannelGroup],
    layers: Layers,
    reasons: Mapping[str, str],
    outputs: set[str],
) -> Iterator[Protected]:
    cut = {producer.layer for group in groups for producer in group.producers}
    why = {c.layer: reasons[cand.name] for cand in found if cand.name in reasons for c in cand.producers}
    for name in layers:
        if name in outputs:
            yield Protected(name, "it produces the network's outputs")
        elif name not in cut:
            yield Protected(name, why.get(name, UNREACHED))
