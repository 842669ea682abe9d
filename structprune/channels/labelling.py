"""Labels of their own for every side of every layer, and for every other parameter."""

from __future__ import annotations

from torch import Tensor, nn

from structprune.channels.labels import Tag, along
from structprune.channels.trace import Trace
from structprune.nn.layers import (
    ConvTranspose,
    Norm,
    Recurrent,
    conv_groups,
    in_width,
    is_depthwise,
    is_turned,
    is_written_norm,
    node_layers,
    out_width,
)

NORMS = (Norm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.PReLU)


def labelled(model: nn.Module) -> Trace:
    """Give every side of every layer, and every other parameter, labels of its own."""
    trace = Trace()
    seen: set[int] = set()
    saved = set(model.state_dict())
    for name, layer in node_layers(model):
        written = trace.label("producers", name, out_width(layer))
        read = written if is_depthwise(layer) else trace.label("consumers", name, in_width(layer))
        if isinstance(layer, Recurrent):
            _tie_units(trace, layer, written, read)
            seen |= {id(x) for x in layer.parameters()}
        else:
            _tag_layer(trace, name, layer, written, read, seen)
    for name, module in model.named_modules():
        if isinstance(module, NORMS) or is_written_norm(module):
            _tag_norm(trace, name, module, seen)
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        # What no state dict holds is not saved, and could not be loaded again in another size.
        if id(x) not in seen and x.is_floating_point() and name in saved:
            factors = [
                along(x.dim(), d, trace.label("loose", name, size, d))
                for d, size in enumerate(x.shape)
                if size > 1
            ]
            trace.tags[x] = Tag(tuple(factors), weight=True)
    return trace


def _tag_layer(
    trace: Trace, name: str, layer: nn.Module, written: Tensor, read: Tensor, seen: set[int]
) -> None:
    for key, x in layer.named_parameters(recurse=False):
        if id(x) in seen:
            continue
        seen.add(id(x))
        if x.shape == written.shape:
            trace.tags[x] = Tag((written,), weight=True)
            continue
        if key not in ("weight", "in_proj_weight"):
            continue  # of a subclass of the user's own
        out, into = (1, 0) if isinstance(layer, ConvTranspose) or is_turned(layer) else (0, 1)
        plain = conv_groups(layer) == 1
        factors = [along(x.dim(), out, written)] if plain or out == 0 else []
        factors += [along(x.dim(), into, read)] if plain else []
        trace.tags[x] = Tag(tuple(factors), weight=True, layer=name)


def _tie_units(trace: Trace, layer: Recurrent, written: Tensor, read: Tensor) -> None:
    """All layers and directions of a recurrent layer are of one width: a unit leaves them all."""
    rows = written.reshape(-1, layer.hidden_size)
    trace.labels.tie(rows, rows[:1], "")
    trace.labels.tie(read[layer.input_size :], written, "")


def _tag_norm(trace: Trace, name: str, module: nn.Module, seen: set[int]) -> None:
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    own = [x for _, x in tensors if x.is_floating_point() and x.dim() == 1 and id(x) not in seen]
    if isinstance(module, nn.LayerNorm):  # of a subclass, what is the norm's
        own = [x for x in own if x is module.weight or x is module.bias]
    if own and len({len(x) for x in own}) == 1 and len(own[0]) > 1:
        labels = trace.label("carriers", name, len(own[0]))
        for x in own:
            seen.add(id(x))
            trace.tags[x] = Tag((labels,), weight=True)
