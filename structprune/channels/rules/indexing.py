"""Operations that move entries: labels move along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from structprune.channels.labels import FIXED, Tag, along, collapsed, merged, support
from structprune.channels.rules import call as calls
from structprune.channels.rules.call import Call, Tracer, dims_of, for_all, makers_of, without
from structprune.channels.rules.heads import counted
from structprune.nn.layers import HEADS


def moved(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Where entries only move, labels move along: the operation is run on them."""
    x = call.tensors[0]
    tag = tracer.tag(x)
    if x.numel() > calls.LARGEST and tag.factors:
        tracer.labels.pin(tag.factors, f"its channels are moved about by {call.name} in too large a tensor")
        return for_all(call, Tag((), tag.makers))
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
        return dims_of([call["dim1"] or 0, 1 if call["dim2"] is None else call["dim2"]], rank)
    return dims_of(call["dims"] if call.name == "roll" else call["dim"], rank)


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
    tag, dims = tracer.tag(x), dims_of(call["dim"], x.dim())
    gone = frozenset(d for d in dims if x.shape[d] == 1)
    return [replace(tag, factors=tuple(f.reshape(without(f.shape, gone)) for f in tag.factors))]


def expanded(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """New dimensions in front, and repeated entries of size one."""
    (out,) = call.outputs
    tag = tracer.tag(call.tensors[0])
    if not tag.factors:
        return [replace(tag, factors=_for_heads(tracer, call.tensors[0], out), layer=None)]
    lifted = tuple(f.reshape([1] * (out.dim() - f.dim()) + list(f.shape)) for f in tag.factors)
    return [replace(tag, factors=lifted, layer=None)]


def _for_heads(tracer: Tracer, x: Tensor, out: Tensor) -> tuple[Tensor, ...]:
    """One entry for all heads that a module counts: it is there as often as there are heads left."""
    counts = counted(tracer.inside()[1], HEADS).values()
    before = [1] * (out.dim() - x.dim()) + list(x.shape)
    # The first dimension is that of inputs, of which there may be as many.
    dims = [d for d in range(1, out.dim()) if before[d] == 1 < out.shape[d] and out.shape[d] in counts]
    return tuple(along(out.dim(), d, tracer.labels.new(out.shape[d])) for d in dims[:1])


def filled_later(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Memory for entries of another tensor, as circular padding takes: as wide along the same dimensions."""
    x, (out,) = call.tensors[0], call.outputs
    alike = {d for d in range(x.dim()) if x.dim() == out.dim() and x.shape[d] == out.shape[d]}
    return [Tag(tuple(f for f in tracer.tag(x).factors if support(f) <= alike))]


def cut_out(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """A slice: channels can leave if it is known how the numbers at which it begins and ends follow."""
    x, (out,) = call.tensors[0], call.outputs
    tag = tracer.tag(x)
    if out.shape == x.shape:
        return [tag]
    dim = (call["dim"] or 0) % max(x.dim(), 1)
    if not tag.weight and not _follows(tracer, call, x.shape[dim]):
        tracer.labels.pin([f for f in tag.factors if dim in support(f)], "its channels are sliced")
    return moved(tracer, call)


def _follows(tracer: Tracer, call: Call, size: int) -> bool:
    start, end = call["start"] or 0, size if call["end"] is None else call["end"]
    whole = call.name == "slice" and call["step"] in (None, 1)
    known = tracer.given.sizes
    return whole and (start == 0 or start in known) and (end >= size or end in known)


def split(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Pieces of equal size shrink alike; others as far as it is known how their sizes follow."""
    x = call.tensors[0]
    tag, tags = tracer.tag(x), moved(tracer, call)
    dim = (call["dim"] or 0) % max(x.dim(), 1)
    for i, factor in enumerate(tag.factors):
        if dim in support(factor):
            pieces = [piece.factors[i] for piece in tags]
            if call.name == "unbind":
                tracer.balance(pieces)
            else:
                _divide(tracer, pieces, [out.shape[dim] for out in call.outputs])
    return tags


def _divide(tracer: Tracer, pieces: Sequence[Tensor], sizes: Sequence[int]) -> None:
    """Tie equal pieces, which code may have made by their number, and pin others of unknown sizes."""
    if len(set(sizes)) == 1 and not tracer.given.apart:
        for piece in pieces[1:]:
            tracer.labels.tie(pieces[0], piece, "its channels are split into parts of which one stays")
    elif sum(size not in tracer.given.sizes for size in sizes) > 1:
        tracer.labels.pin(
            pieces, "its channels are split into unequal parts, whose sizes are written in code"
        )


def scattered(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Entries added or written where numbers say, along a dimension that has no channels."""
    x, (out,) = call["self"], call.outputs
    source = next((call[k] for k in ("source", "src") if isinstance(call[k], Tensor)), None)
    dim = call["dim"] % x.dim()
    index = call["index"]
    is_laid_out = index.dim() == x.dim() > 1  # as for scatter: it says where for every entry
    if not is_laid_out:
        tracer.labels.pin(tracer.tag(index).factors, f"its channels are numbers that {call.name} goes by")
    operands = []
    for tensor in [t for t in (x, source, index if is_laid_out else None) if t is not None]:
        tag = tracer.tag(tensor)
        along_it = [f for f in tag.factors if dim in support(f)]
        tracer.labels.pin(along_it, f"its channels are written by number, by {call.name}")
        across = tuple(f for f in tag.factors if dim not in support(f))
        operands.append((Tag(across, tag.makers), [*tensor.shape[:dim], 1, *tensor.shape[dim + 1 :]]))
    shape = [*out.shape[:dim], 1, *out.shape[dim + 1 :]]
    if any(own != shape for _, own in operands):
        reason = f"its channels are written next to others that stay, by {call.name}"
        tracer.labels.pin([f for tag, _ in operands for f in tag.factors], reason)
        return [Tag((), makers_of(tracer, call))]
    made = merged(tracer.labels, shape, operands, "its channels are added to values that stay")
    return [replace(made, weight=False)]


def put_in(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Rows written by number, as x[index] = y does: what lies along other dimensions meets entry by entry."""
    x, values, (first, *others) = call["self"], call["values"], call["indices"]
    if first is not None and first.shape == x.shape and first.dtype == torch.bool and values.numel() == 1:
        operands = [(tracer.tag(t), t.shape) for t in (x, first, values)]
        return [merged(tracer.labels, x.shape, operands, "its channels meet values that stay")]
    whole = first is not None and not any(isinstance(i, Tensor) for i in others)
    behind = x.dim() - 1 if whole and (first.dtype != torch.bool or first.dim() == 1) else 0
    operands = []
    for tensor in (x, values):
        tag, shape = tracer.tag(tensor), list(tensor.shape[max(tensor.dim() - behind, 0) :])
        across = [f for f in tag.factors if all(d >= f.dim() - behind for d in support(f))]
        odd = [f for f in tag.factors if not any(f is one for one in across)]
        tracer.labels.pin(odd, f"its channels are written by number, by {call.name}")
        rows = tuple(f.reshape(f.shape[f.dim() - len(shape) :]) for f in across)
        operands.append((Tag(rows, tag.makers), shape))
    reason = "its channels are written beside values that stay"
    made = merged(tracer.labels, x.shape[x.dim() - behind :], operands, reason)
    factors = tuple(f.reshape([1] * (x.dim() - f.dim()) + list(f.shape)) for f in made.factors)
    return [Tag(factors, made.makers)]


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
    return [Tag(tuple(factors), makers_of(tracer, call), all(tag.weight for tag in tags))]


def _end_to_end(lengthwise: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[int]], dim: int) -> Tensor:
    wide = frozenset().union(*(support(f) for own in lengthwise for f in own)) | {dim}
    rows = []
    for own, shape in zip(lengthwise, shapes, strict=True):
        target = [size if d in wide else 1 for d, size in enumerate(shape)]
        rows.append(own[0].expand(target) if own else torch.full(target, FIXED))
    return collapsed(torch.cat(rows, dim))
