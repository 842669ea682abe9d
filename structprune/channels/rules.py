"""What operations do to labels: one rule an operation of ATen, and none for those that nobody listed.

A rule gets the trace, the call and its results, and returns a tag for every result. An operation without a
rule pins whatever reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from structprune.channels.labels import FIXED, Labels, Tag, along, collapsed, merged, support
from structprune.layers import EMBEDDED, HEAD_WIDTHS, HEADS, WHOLE


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        name: of the operation, without namespace and overload.
        arguments: by their names in the operation's schema.
        outputs: tensors that came out.
    """

    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[Tensor, ...]

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that went in, those in lists too."""
        found: list[Tensor] = []
        for value in self.arguments.values():
            many = value if isinstance(value, (list, tuple)) else [value]
            found += [x for x in many if isinstance(x, Tensor)]
        return found


class Tracer(Protocol):
    """What rules may ask of the trace."""

    labels: Labels
    cut_padded: bool
    embedding: bool

    def tag(self, tensor: Tensor) -> Tag:
        """Return what is known of a tensor."""

    def inside(self) -> tuple[str, nn.Module]:
        """Return the module whose forward pass is running."""

    def read(self, layer: str) -> Tensor:
        """Return the labels of the inputs of a layer that is run, (I,)."""

    def written(self, layer: str) -> Tensor:
        """Return the labels of a layer's outputs, (O,)."""

    def balance(self, pieces: Sequence[Tensor]) -> None:
        """Note pieces of a split, which can shrink only if they turn out to be tied to each other."""

    def resize(self, module: str, attribute: str, labels: Tensor) -> None:
        """Note that an attribute counts these labels."""

    def carried(self, norm: str, size: int) -> Tensor:
        """Return the labels of what a norm normalises, (C,)."""


Rule = Callable[[Tracer, Call], Sequence[Tag]]


def _all(call: Call, tag: Tag) -> Sequence[Tag]:
    return [tag] * len(call.outputs)


def _makers(tracer: Tracer, call: Call) -> frozenset[str]:
    return frozenset().union(*(tracer.tag(x).makers for x in call.tensors))


# ---- entry by entry


def pointwise(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """What meets entry by entry leaves together."""
    operands = [(tracer.tag(x), x.shape) for x in call.tensors]
    reason = "its channels meet values that stay: the network's input, a constant or a single channel"
    return _all(call, merged(tracer.labels, call.outputs[0].shape, operands, reason)) if call.outputs else []


def shaped_like(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """New values of a tensor's shape shrink as it does."""
    return _all(call, replace(tracer.tag(call.tensors[0]), makers=frozenset()))


# ---- over some dimensions


def _dims(call: Call, dims: Any, rank: int) -> frozenset[int]:
    if dims is None or dims == []:
        return frozenset(range(rank))
    many = dims if isinstance(dims, (list, tuple)) else [dims]
    return frozenset(d % max(rank, 1) for d in many)


def reduction(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Channels survive where other dimensions are reduced, and can't leave where they are themselves."""
    x = call.tensors[0]
    tag, dims = tracer.tag(x), _dims(call, call["dim"], x.dim())
    kept = _mixed_over(tracer, call, tag, dims)
    flat = [
        factor if call.outputs[0].dim() == x.dim() else factor.reshape(_without(factor.shape, dims))
        for factor in kept
    ]
    return _all(call, replace(tag, factors=tuple(flat)))


def _without(shape: Sequence[int], dims: frozenset[int]) -> list[int]:
    return [size for d, size in enumerate(shape) if d not in dims]


def _mixed_over(tracer: Tracer, call: Call, tag: Tag, dims: frozenset[int]) -> list[Tensor]:
    """Pin what lies along some dimensions; return what doesn't."""
    mixed = [factor for factor in tag.factors if support(factor) & dims]
    tracer.labels.pin(mixed, f"its channels are mixed by {call.name}")
    return [factor for factor in tag.factors if not support(factor) & dims]


def along_one(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Softmax, cumulative sums, sorting: all entries along a dimension have a say."""
    x = call.tensors[0]
    tag = tracer.tag(x)
    kept = _mixed_over(tracer, call, tag, _dims(call, call["dim"], x.dim()))
    return _all(call, replace(tag, factors=tuple(kept)))


def in_space(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Pooling, resizing, padding: the last dimensions are space, and nothing else is touched."""
    x = call.tensors[0]
    tag = tracer.tag(x)
    count = next(int(c) for c in reversed(call.name) if c.isdigit())
    space = frozenset(range(x.dim() - count, x.dim()))
    return _all(call, replace(tag, factors=tuple(_mixed_over(tracer, call, tag, space))))


def padding(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Padding of space leaves channels alone; padded channels belong to code that counts them."""
    x = call.tensors[0]
    tag, pad = tracer.tag(x), call["pad"]
    dims = frozenset(x.dim() - 1 - i // 2 for i, amount in enumerate(pad) if amount)
    factors = []
    for factor in tag.factors:
        if support(factor) & dims:
            held = FIXED
            if not tracer.cut_padded:
                reason = "its channels are padded with zeros, as in a shortcut without parameters"
                tracer.labels.pin(factor, reason)
                held = int(factor.flatten()[0])  # what meets the zeros stays for the same reason
            factor = functional.pad(factor.expand(x.shape), pad, value=held)
        factors.append(collapsed(factor))
    return [replace(tag, factors=tuple(factors))]


# ---- moved about


def moved(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Where entries only move, labels move along: the operation is run on them."""
    x = call.tensors[0]
    tag = tracer.tag(x)
    if x.numel() > LARGEST and tag.factors:
        tracer.labels.pin(tag.factors, f"its channels are moved about by {call.name} in too large a tensor")
        return _all(call, Tag((), tag.makers))
    results: list[list[Tensor]] = [[] for _ in call.outputs]
    for factor in tag.factors:
        laid = factor.expand(x.shape)
        for own, piece in zip(results, _run(call, x, laid), strict=True):
            own.append(collapsed(piece))
    # A convolution goes by its layer and not by these labels, so its weight must be the layer's as it is.
    layer = tag.layer if x.dim() == 2 else None
    return [replace(tag, factors=tuple(own), layer=layer) for own in results]


def _run(call: Call, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    operation = getattr(torch.ops.aten, call.name)
    arguments = {key: labels if value is x else value for key, value in call.arguments.items()}
    out = operation(**arguments)
    return tuple(out) if isinstance(out, (list, tuple)) else (out,)


def picked_out(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Entries looked up by number, or rolled around: numbers that mean other channels after a cut."""
    x = call.tensors[0]
    over = _looked_up(call, x.dim())
    odd = [factor for factor in tracer.tag(x).factors if support(factor) & over]
    tracer.labels.pin(odd, f"its channels are picked out by number, by {call.name}")
    return moved(tracer, call)


def _looked_up(call: Call, rank: int) -> frozenset[int]:
    if call.name == "index":
        return frozenset(d for d, index in enumerate(call["indices"]) if index is not None)
    if call.name == "diagonal":
        return _dims(call, [call["dim1"] or 0, 1 if call["dim2"] is None else call["dim2"]], rank)
    return _dims(call, call["dims"] if call.name == "roll" else call["dim"], rank)


def strided(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Another view of the same memory: labels are laid out in memory as the tensor is."""
    x = call.tensors[0]
    tag = tracer.tag(x)
    factors = []
    for factor in tag.factors:
        laid = torch.empty_strided(x.shape, x.stride(), dtype=torch.int64)
        laid.copy_(factor.expand(x.shape))
        offset = call["storage_offset"]
        offset = 0 if offset is None else offset - x.storage_offset()
        factors.append(collapsed(laid.as_strided(call["size"], call["stride"], offset)))
    return [replace(tag, factors=tuple(factors))]


def permuted(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Dimensions that change places, appear or vanish: labels need not be laid out for it."""
    x = call.tensors[0]
    tag = tracer.tag(x)
    factors = tuple(_run(call, x, factor)[0] for factor in tag.factors)
    return [replace(tag, factors=factors)]


def squeezed(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Dimensions of one entry vanish."""
    x = call.tensors[0]
    tag, dims = tracer.tag(x), _dims(call, call["dim"], x.dim())
    gone = frozenset(d for d in dims if x.shape[d] == 1)
    return [replace(tag, factors=tuple(f.reshape(_without(f.shape, gone)) for f in tag.factors))]


def expanded(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """New dimensions in front, and repeated entries of size one."""
    (out,) = call.outputs
    tag = tracer.tag(call.tensors[0])
    lifted = tuple(f.reshape([1] * (out.dim() - f.dim()) + list(f.shape)) for f in tag.factors)
    return [replace(tag, factors=lifted, layer=None)]


def cut_out(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """A slice: of channels it can't be taken from fewer, since code says where it begins and ends."""
    x, (out,) = call.tensors[0], call.outputs
    tag = tracer.tag(x)
    if out.shape == x.shape:
        return [tag]
    dim = (call["dim"] or 0) % max(x.dim(), 1)
    if not tag.weight:
        tracer.labels.pin([f for f in tag.factors if dim in support(f)], "its channels are sliced")
    return moved(tracer, call)


def split(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Pieces of equal size shrink alike if their channels turn out to be tied; others can't."""
    x = call.tensors[0]
    tag, tags = tracer.tag(x), moved(tracer, call)
    dim = (call["dim"] or 0) % max(x.dim(), 1)
    for i, factor in enumerate(tag.factors):
        if dim in support(factor):
            tracer.balance([piece.factors[i] for piece in tags])
    return tags


def joined(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """A concatenation: each piece keeps its own labels along that dimension; along others they meet."""
    pieces = [x for x in call["tensors"] if x.numel()]
    (out,) = call.outputs
    new = call.name == "stack"
    dim = (call["dim"] or 0) % out.dim()
    shapes = [[*x.shape[:dim], 1, *x.shape[dim:]] if new else list(x.shape) for x in pieces]
    tags = [tracer.tag(x) for x in pieces]
    lifted = [
        [f.reshape([*f.shape[:dim], 1, *f.shape[dim:]]) if new else f for f in tag.factors] for tag in tags
    ]
    lengthwise = [[f for f in factors if dim in support(f)] for factors in lifted]
    crosswise = [[f for f in factors if dim not in support(f)] for factors in lifted]
    # What runs across is shared by all pieces: they meet like operands of a sum.
    operands = [
        (Tag(tuple(factors)), [*shape[:dim], 1, *shape[dim + 1 :]])
        for factors, shape in zip(crosswise, shapes, strict=True)
    ]
    across = [*out.shape[:dim], 1, *out.shape[dim + 1 :]]
    reason = "its channels are concatenated with values that have none, across the channels"
    factors = list(merged(tracer.labels, across, operands, reason).factors)
    if any(lengthwise):
        factors.append(_end_to_end(lengthwise, shapes, dim))
        for extra in (f for own in lengthwise for f in own[1:]):
            tracer.labels.pin(extra, "its channels are laid out in more ways than one")
    return [Tag(tuple(factors), _makers(tracer, call), all(tag.weight for tag in tags))]


def _end_to_end(lengthwise: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[int]], dim: int) -> Tensor:
    wide = frozenset().union(*(support(f) for own in lengthwise for f in own)) | {dim}
    rows = []
    for own, shape in zip(lengthwise, shapes, strict=True):
        target = [size if d in wide else 1 for d, size in enumerate(shape)]
        rows.append(own[0].expand(target) if own else torch.full(target, FIXED))
    return collapsed(torch.cat(rows, dim))


def viewed(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """A reshape: merged dimensions take their labels along; a split one is cut along one of its parts."""
    x, (out,) = call.tensors[0], call.outputs
    tag = tracer.tag(x)
    factors = tuple(_reshaped(tracer, factor, list(x.shape), list(out.shape)) for factor in tag.factors)
    same = x.shape == out.shape
    return [replace(tag, factors=factors, layer=tag.layer if same else None)]


def _reshaped(tracer: Tracer, factor: Tensor, before: list[int], after: list[int]) -> Tensor:
    wide, sizes, target, parts = support(factor), [], [], []
    for own, new in blocks(before, after):
        touched = any(d in wide for d in own)
        sizes += [before[d] if touched else 1 for d in own]
        target += [after[d] if touched else 1 for d in new]
        if touched:
            parts.append((own, new))
    laid = collapsed(factor.expand(sizes).reshape(target))
    for own, new in parts:
        varied = [d for d in new if d in support(laid)]
        if len(varied) > 1:
            laid = _one_way(tracer, laid, varied, after)
        elif varied == [laid.dim() - 1] and len(own) > len(new):
            _note_whole(tracer, laid, varied[0], WHOLE)
        elif varied and tracer.embedding:
            _note_whole(tracer, laid, varied[0], EMBEDDED)
    return laid


def blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the dimensions of two shapes of one size: the smallest runs whose products agree.

    Example:
        >>> blocks([2, 8, 6], [2, 2, 4, 6])
        [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    pairs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        own, new, left, right = [], [], 1, 1
        if i < len(before):
            own, left, i = [i], before[i], i + 1
        if j < len(after):
            new, right, j = [j], after[j], j + 1
        while left != right:
            if left < right:
                own, left, i = [*own, i], left * before[i], i + 1
            else:
                new, right, j = [*new, j], right * after[j], j + 1
        pairs.append((own, new))
    return pairs


LARGEST = 1 << 26
"""Entries of a tensor up to which its labels are laid out one by one, 512 MB of them."""

MOST_INPUTS = 4
"""Inputs that a trace runs on; heads may be laid out once for each."""


def _one_way(tracer: Tracer, laid: Tensor, varied: Sequence[int], after: Sequence[int]) -> Tensor:
    """Let whole slices along one of several dimensions leave: heads where a module counts them."""
    name, module = tracer.inside()
    heads = [(a, getattr(module, a)) for a in HEADS if isinstance(getattr(module, a, None), int)]
    # Of several that fit, the last but the width of a head: there are three heads beside q, k and v at times.
    # A module that doesn't hold a head's width computes it from one that is not to change.
    named = [getattr(module, a) for a in HEAD_WIDTHS if isinstance(getattr(module, a, None), int)]
    held = after[varied[-1]] in (named or vars(module).values())
    counted = [d for d in varied[:-1] if held and any(_counts(laid, d, count) for _, count in heads)]
    chosen = counted[-1] if counted else max(varied, key=lambda d: after[d])
    others = [d for d in varied if d != chosen]
    one = laid
    for d in others:
        one = one.narrow(d, 0, 1)
    tracer.labels.tie(laid, one, "its channels are reshaped together with others that stay")
    for attribute, count in heads:
        if chosen in counted and _counts(one, chosen, count):
            tracer.resize(name, attribute, _first(one, chosen, count))
    return one


def _note_whole(tracer: Tracer, laid: Tensor, dim: int, attributes: Sequence[str]) -> None:
    """Some modules remember how wide something is: heads put side by side again, or an embedding."""
    name, module = tracer.inside()
    for attribute in attributes:
        if getattr(module, attribute, None) == laid.shape[dim]:
            tracer.resize(name, attribute, _first(laid, dim, laid.shape[dim]))


def _counts(laid: Tensor, dim: int, count: int) -> bool:
    """Tell whether a dimension holds that many different slices, perhaps once for every input."""
    size = laid.shape[dim]
    return count > 1 and size >= count and size % count == 0 and size // count <= MOST_INPUTS


def _first(one: Tensor, dim: int, count: int) -> Tensor:
    first = one
    for d in range(one.dim()):
        if d != dim:
            first = first.narrow(d, 0, 1)
    return first.flatten()[:count]


# ---- products


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
    _contract(labels, summed, inner, weights=any(tag.layer is not None for tag in tags))
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


def _contract(labels: Labels, summed: Sequence[list[Tensor]], inner: tuple[int, int], weights: bool) -> None:
    plain = [[f for f in own if support(f) == {inner[i]}] for i, own in enumerate(summed)]
    odd = [f for i, own in enumerate(summed) for f in own if support(f) != {inner[i]}]
    labels.pin(odd, "its channels are summed over in a product that mixes them with others")
    without = "its channels are summed over without a layer's weights"
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
        reason = "a convolution whose weight is computed, or no layer's own, reads its channels"
        tracer.labels.pin([*tag.factors, *own.factors], reason)
        return [Tag((), tag.makers | own.makers)]
    read, written = tracer.read(own.layer), tracer.written(own.layer)
    if channels:
        tracer.labels.tie(channels[0].flatten(), read, "its channels are read beside others that stay")
    elif x.shape[1] > 1:
        tracer.labels.pin(read, "its channels are read where none that could leave are")
    return [Tag((along(rank, 1, written),), frozenset([own.layer]))]


# ---- norms and tables


def batch_norm(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """A number a channel: scales, shifts and statistics leave with their channel."""
    x = call["input"] if call["input"] is not None else call["self"]
    params = [call[name] for name in ("weight", "bias", "running_mean", "running_var", "mean", "var")]
    tag = _per_channel(tracer, x, [p for p in params if isinstance(p, Tensor) and p.dim() == 1 and p.numel()])
    return [tag, *(Tag() for _ in call.outputs[1:])]


def _per_channel(tracer: Tracer, x: Tensor, params: Sequence[Tensor]) -> Tag:
    tag = tracer.tag(x)
    operands = [(tag, x.shape)]
    for p in params:
        lifted = tuple(along(x.dim(), 1, f) for f in tracer.tag(p).factors)
        operands.append((Tag(lifted), along(x.dim(), 1, p).shape))
    made = merged(tracer.labels, x.shape, operands, "its channels meet a norm whose numbers stay")
    return replace(tag, factors=made.factors)


def layer_norm(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Channels that are normalised together change each other, which those of an embedding may."""
    x = call["input"]
    tag = tracer.tag(x)
    params = [p for p in (call["weight"], call["bias"]) if isinstance(p, Tensor)]
    over = frozenset(range(x.dim() - len(call["normalized_shape"]), x.dim()))
    mixed = [f for f in tag.factors if support(f) & over]
    name, module = tracer.inside()
    for factor in mixed:
        is_own = isinstance(module, nn.LayerNorm) and module.eps > 0
        if tracer.embedding and is_own and support(factor) == over == {x.dim() - 1}:
            carried = tracer.carried(name, x.shape[-1])
            tracer.labels.tie(factor.flatten(), carried, "its channels meet a norm whose numbers stay")
        else:
            tracer.labels.pin(factor, "its channels are normalised together by a LayerNorm")
    operands = [(tag, x.shape), *((tracer.tag(p), p.shape) for p in params)]
    made = merged(tracer.labels, x.shape, operands, "its channels meet a norm whose numbers stay")
    return [replace(tag, factors=made.factors), *(Tag() for _ in call.outputs[1:])]


def group_norm(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Channels that are normalised together leave together, a whole group of the norm at once."""
    x, groups = call["input"], int(call["group"])
    params = [p for p in (call["weight"], call["bias"]) if isinstance(p, Tensor)]
    tag = _per_channel(tracer, x, params)
    name, module = tracer.inside()
    for factor in tag.factors:
        if support(factor) != {1} or not isinstance(module, nn.GroupNorm) or groups == 1:
            tracer.labels.pin(factor, "its channels are normalised together by a GroupNorm")
            continue
        rows = factor.flatten().reshape(groups, -1)
        tracer.labels.tie(rows, rows[:, :1], "its channels are normalised together with others that stay")
        tracer.resize(name, "num_groups", rows[:, 0])
    return [tag, *(Tag() for _ in call.outputs[1:])]


def table(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """An embedding: rows are looked up, columns are channels."""
    weight, (out,) = tracer.tag(call["weight"]), call.outputs
    columns = tuple(along(out.dim(), out.dim() - 1, f.flatten()) for f in weight.factors if support(f) == {1})
    return [Tag(columns, tracer.tag(call["indices"]).makers)]


# ---- which is which

# The tables are long and grow; black's one name a line would hide them.
# fmt: off
MOVED = (
    "flip", "repeat", "unfold", "rot90", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle",
    "native_channel_shuffle", "channel_shuffle", "im2col",
)
PICKED = ("roll", "index", "index_select", "gather", "take", "diagonal")
NEW = ("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided")
PERMUTED = ("permute", "transpose", "t", "unsqueeze", "movedim", "numpy_T")
LIKE = ("empty_like", "zeros_like", "ones_like", "rand_like", "randn_like", "full_like")
REDUCED = (
    "sum", "mean", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm",
    "logsumexp", "max", "min", "argmax", "argmin", "any", "all", "prod", "median",
)
ALONG_ONE = (
    "_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "sort",
    "topk",
)
SPACE = tuple(
    f"{kind}{n}d{rest}"
    for n in (1, 2, 3)
    for kind, rest in (
        ("max_pool", ""), ("max_pool", "_with_indices"), ("mkldnn_max_pool", ""), ("avg_pool", ""),
        ("adaptive_avg_pool", ""), ("_adaptive_avg_pool", ""), ("adaptive_max_pool", ""),
        ("reflection_pad", ""), ("replication_pad", ""), ("upsample_nearest", ""), ("upsample_linear", ""),
        ("upsample_bilinear", ""), ("upsample_bicubic", ""), ("upsample_trilinear", ""),
        ("_upsample_nearest_exact", ""), ("_upsample_bilinear", "_aa"), ("_upsample_bicubic", "_aa"),
    )
)
# Entry by entry, though ATen does not tag all of their overloads so.
ALIKE = (
    "clone", "_to_copy", "alias", "detach", "contiguous", "lift_fresh", "lift_fresh_copy", "copy", "where",
    "native_dropout", "_fused_dropout", "masked_fill", "fill", "zero", "normal", "uniform", "bernoulli",
    "_prelu_kernel", "celu", "rrelu_with_noise", "hardswish", "mish", "gelu", "threshold", "rsub",
)
BATCH_NORMS = (
    "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update",
)
# fmt: on

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ALIKE, pointwise),
    **dict.fromkeys(LIKE, shaped_like),
    **dict.fromkeys(REDUCED, reduction),
    **dict.fromkeys(ALONG_ONE, along_one),
    **dict.fromkeys(SPACE, in_space),
    "constant_pad_nd": padding,
    **dict.fromkeys(MOVED, moved),
    **dict.fromkeys(PICKED, picked_out),
    **dict.fromkeys(NEW, lambda tracer, call: _all(call, Tag())),
    **dict.fromkeys(PERMUTED, permuted),
    "as_strided": strided,
    "squeeze": squeezed,
    "expand": expanded,
    "slice": cut_out,
    "select": cut_out,
    "narrow": cut_out,
    **dict.fromkeys(("split", "split_with_sizes", "unbind", "chunk"), split),
    **dict.fromkeys(("cat", "stack"), joined),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), viewed),
    **dict.fromkeys(FACTORS, product),
    "convolution": convolution,
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "embedding": table,
}


def rule_of(operation: Any, name: str) -> Rule | None:
    """Return the rule of an operation, or None where nobody listed it."""
    if name in RULES:
        return RULES[name]
    return pointwise if torch.Tag.pointwise in operation.tags else None
