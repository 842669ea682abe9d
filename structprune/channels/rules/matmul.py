"""Matrix products and convolutions: what is summed over is read, what is left is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from structprune.channels.labels import Labels, Tag, along, merged, support
from structprune.channels.rules.call import Call, Tracer
from structprune.channels.rules.heads import counted
from structprune.nn.folding import remedy
from structprune.nn.layers import HEAD_WIDTHS, HEADS

FACTORS: Mapping[str, tuple[str, str]] = {
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "dot": ("self", "tensor"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addmv": ("mat", "vec"),
}
"""Product -> its two factors, by their names in the operation's schema."""


_NO_LAYER = "a convolution whose weight is computed, or no layer's own, reads its channels"


def product(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Matrix products: what is summed over leaves together."""
    first, second = FACTORS[call.name]
    tag = _multiplied(tracer, call, call[first], call[second])
    if first != "self":  # something is added to the product
        operands = [(tag, call.outputs[0].shape), (tracer.tag(call["self"]), call["self"].shape)]
        made = merged(tracer.labels, call.outputs[0].shape, operands, "its channels meet a bias that stays")
        tag = replace(tag, factors=made.factors)
    return [tag]


def _multiplied(tracer: Tracer, call: Call, a: Tensor, b: Tensor) -> Tag:
    labels, tags = tracer.labels, (tracer.tag(a), tracer.tag(b))
    rank = call.outputs[0].dim()
    inner = (a.dim() - 1, max(b.dim() - 2, 0))
    summed = [[f for f in tag.factors if inner[i] in support(f)] for i, tag in enumerate(tags)]
    kept = [[f for f in tag.factors if inner[i] not in support(f)] for i, tag in enumerate(tags)]
    _contract(labels, summed, inner, any(tag.layer is not None for tag in tags), _without(tracer, summed))
    shapes = [[*a.shape[:-1], 1], [*b.shape[:-2], 1, b.shape[-1]]]
    if rank < a.dim():  # a vector on the right
        shapes = [list(a.shape[:-1]), []]
        kept = [[f.reshape(f.shape[:-1]) for f in kept[0]], []]
    factors = merged(
        labels,
        call.outputs[0].shape,
        [(Tag(tuple(own)), shape) for own, shape in zip(kept, shapes, strict=True)],
        "its channels are multiplied with others that stay",
    ).factors
    layer = next((tag.layer for tag in tags if tag.layer is not None), None)
    if layer is not None:
        tracer.read(layer)
    makers = frozenset([layer]) if layer is not None else tags[0].makers | tags[1].makers
    return Tag(factors, makers, all(tag.weight for tag in tags))


def _without(tracer: Tracer, summed: Sequence[list[Tensor]]) -> str:
    """Say why channels can't leave that are summed over without a layer's weights."""
    name, module = tracer.inside()
    if (how := remedy(module)) is not None:
        return f"{name} reads its channels, and {how}"
    if all(summed) and _is_one_head(module, summed):
        return f"{name} has one head only, which stays"
    if all(summed):
        return (
            f"heads were not recognised in {name or 'the network itself'}, where its channels are multiplied "
            "with others and summed over; an attribute num_heads or head_dim of that module tells them"
        )
    return "its channels are summed over without a layer's weights"


def _is_one_head(module: nn.Module, summed: Sequence[list[Tensor]]) -> bool:
    """Tell whether what is summed over is as wide as the module says that a head is, or all that there is."""
    wide = {max(factor.shape[d] for d in support(factor)) for own in summed for factor in own}
    return wide <= set(counted(module, HEAD_WIDTHS).values()) or 1 in counted(module, HEADS).values()


def _contract(
    labels: Labels, summed: Sequence[list[Tensor]], inner: tuple[int, int], weights: bool, without: str
) -> None:
    plain = [[f for f in own if support(f) == {inner[i]}] for i, own in enumerate(summed)]
    odd = [f for i, own in enumerate(summed) for f in own if support(f) != {inner[i]}]
    labels.pin(odd, "its channels are summed over in a product that mixes them with others")
    beside = "its channels are read where none that could leave are"
    if plain[0] and plain[1] and weights:
        labels.tie(plain[0][0].flatten(), plain[1][0].flatten(), beside)
    else:
        labels.pin([f for own in plain for f in own], beside if weights else without)


def convolution(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """A convolution reads the second dimension of its input and writes the labels of its layer."""
    x, weight = call["input"], call["weight"]
    tag, own = tracer.tag(x), tracer.tag(weight)
    rank = call.outputs[0].dim()
    channels = [f for f in tag.factors if support(f) == {1}]
    odd = [f for f in tag.factors if support(f) - {1}]
    tracer.labels.pin(odd, "its channels are laid out in space or over inputs")
    if own.layer is None:
        name, module = tracer.inside()
        how = remedy(module)
        reason = f"{name} reads its channels, and {how}" if how else _NO_LAYER
        tracer.labels.pin([*tag.factors, *own.factors], reason)
        return [Tag((), tag.makers | own.makers)]
    read, written = tracer.read(own.layer), tracer.written(own.layer)
    if channels:
        tracer.labels.tie(channels[0].flatten(), read, "its channels are read beside others that stay")
    elif x.shape[1] > 1:
        tracer.labels.pin(read, "its channels are read where none that could leave are")
    return [Tag((along(rank, 1, written),), frozenset([own.layer]))]
