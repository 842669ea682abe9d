"""Norms, and tables of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from structprune.channels.labels import Tag, along, merged, support
from structprune.channels.rules.call import Call, Tracer, dims_of
from structprune.channels.rules.elementwise import reduction
from structprune.nn.layers import normalises


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
            remedy = "" if tracer.embedding or not is_own else ": embedding=True lets them leave"
            tracer.labels.pin(factor, f"its channels are normalised together by a LayerNorm{remedy}")
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
        if tracer.embedding and groups == 1 and support(factor) == {1} and normalises(module):
            carried = tracer.carried(name, x.shape[1])
            tracer.labels.tie(factor.flatten(), carried, "its channels meet a norm whose numbers stay")
            continue
        if support(factor) != {1} or not isinstance(module, nn.GroupNorm) or groups == 1:
            tracer.labels.pin(factor, "its channels are normalised together by a GroupNorm")
            continue
        rows = factor.flatten().reshape(groups, -1)
        tracer.labels.tie(rows, rows[:, :1], "its channels are normalised together with others that stay")
        tracer.resize(name, "num_groups", rows[:, 0])
    return [tag, *(Tag() for _ in call.outputs[1:])]


def mean(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """A mean mixes channels, as those of an embedding may inside of a norm: RMSNorm takes one of squares."""
    x = call.tensors[0]
    name, module = tracer.inside()
    over = dims_of(call["dim"], x.dim())
    if not (tracer.embedding and normalises(module)):
        return reduction(tracer, call)
    tag = tracer.tag(x)
    mixed = [f for f in tag.factors if len(support(f)) == 1 and support(f) <= over]
    for factor in mixed:
        (dim,) = support(factor)
        if sum(x.shape[d] == x.shape[dim] for d in over) > 1:  # which of them is which, nobody could tell
            return reduction(tracer, call)
        carried = tracer.carried(name, x.shape[dim])
        tracer.labels.tie(factor.flatten(), carried, "its channels meet a norm whose numbers stay")
    kept = tuple(f for f in tag.factors if all(f is not other for other in mixed))
    return reduction(tracer, call, replace(tag, factors=kept))


def table(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """An embedding: rows are looked up, columns are channels."""
    weight, (out,) = tracer.tag(call["weight"]), call.outputs
    columns = tuple(along(out.dim(), out.dim() - 1, f.flatten()) for f in weight.factors if support(f) == {1})
    return [Tag(columns, tracer.tag(call["indices"]).makers)]
