"""Operations entry by entry, and over some dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor
from torch.nn import functional

from structprune.channels.labels import FIXED, Tag, collapsed, merged, support
from structprune.channels.rules.call import Call, Tracer, dims_of, for_all, makers_of, without


def pointwise(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """What meets entry by entry leaves together."""
    operands = [(tracer.tag(x), x.shape) for x in call.tensors]
    reason = "its channels meet values that stay: the network's input, a constant or a single channel"
    return (
        for_all(call, merged(tracer.labels, call.outputs[0].shape, operands, reason)) if call.outputs else []
    )


def shaped_like(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """New values of a tensor's shape shrink as it does."""
    return for_all(call, replace(tracer.tag(call.tensors[0]), makers=frozenset()))


def reduction(tracer: Tracer, call: Call, tag: Tag | None = None) -> Sequence[Tag]:
    """Channels survive where other dimensions are reduced, and can't leave where they are themselves.

    Args:
        tracer: what is known.
        call: of the operation.
        tag: of what goes in, where it is not all that is known of it.
    """
    x = call.tensors[0]
    tag, dims = tag or tracer.tag(x), dims_of(call["dim"], x.dim())
    mixed = [factor for factor in tag.factors if support(factor) & dims]
    # Attention weights, averaged over heads, are mostly computed for nobody.
    tracer.pin_once_used(call.outputs, mixed, f"its channels are mixed by {call.name}")
    kept = [factor for factor in tag.factors if not support(factor) & dims]
    flat = [
        factor if call.outputs[0].dim() == x.dim() else factor.reshape(without(factor.shape, dims))
        for factor in kept
    ]
    return for_all(call, replace(tag, factors=tuple(flat)))


def _mixed_over(tracer: Tracer, call: Call, tag: Tag, dims: frozenset[int]) -> list[Tensor]:
    """Pin what lies along some dimensions; return what doesn't."""
    mixed = [factor for factor in tag.factors if support(factor) & dims]
    tracer.labels.pin(mixed, f"its channels are mixed by {call.name}")
    return [factor for factor in tag.factors if not support(factor) & dims]


def along_one(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Softmax, cumulative sums, sorting: all entries along a dimension have a say."""
    x = call.tensors[0]
    tag = tracer.tag(x)
    kept = _mixed_over(tracer, call, tag, dims_of(call["dim"], x.dim()))
    return for_all(call, replace(tag, factors=tuple(kept)))


def in_space(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Pooling, resizing, padding: the last dimensions are space, and nothing else is touched."""
    x = call.tensors[0]
    tag = tracer.tag(x)
    count = next(int(c) for c in reversed(call.name) if c.isdigit())
    space = frozenset(range(x.dim() - count, x.dim()))
    return for_all(call, replace(tag, factors=tuple(_mixed_over(tracer, call, tag, space))))


def gated_linear(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """A half times the sigmoid of the other: a channel of each leaves with its partner."""
    x = call.tensors[0]
    tag = tracer.tag(x)
    dim = (-1 if call["dim"] is None else call["dim"]) % x.dim()
    factors = []
    for factor in tag.factors:
        if dim in support(factor):
            factor, gate = factor.chunk(2, dim)
            tracer.labels.tie(factor, gate, "its channels are gated by others that stay")
        factors.append(factor)
    return [replace(tag, factors=tuple(factors))]


def sampled(tracer: Tracer, call: Call) -> Sequence[Tag]:
    """Pixels picked out by a grid: the last dimensions are space, and where to look has no channels."""
    x, grid = call["input"], call["grid"]
    space = frozenset(range(2, x.dim()))
    reason = f"its channels are places that {call.name} looks at"
    tracer.labels.pin(tracer.tag(grid).factors, reason)
    factors = _mixed_over(tracer, call, tracer.tag(x), space)
    return [Tag(tuple(factors), makers_of(tracer, call)) for _ in call.outputs]


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
                reason = (
                    "its channels are padded with zeros, as in a shortcut without parameters: "
                    "cut_padded=True lets those leave that meet no zeros"
                )
                tracer.labels.pin(factor, reason)
                held = int(factor.flatten()[0])  # what meets the zeros stays for the same reason
            factor = functional.pad(factor.expand(x.shape), pad, value=held)
        factors.append(collapsed(factor))
    return [replace(tag, factors=tuple(factors))]
