"""Reshapes: merged dimensions take their labels along, a split one is cut along one of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from structprune.channels.labels import Tag, collapsed, support
from structprune.channels.rules.call import Call, Tracer
from structprune.channels.rules.heads import counted, counts_slices, heads_along
from structprune.nn.layers import EMBEDDED, HEAD_WIDTHS, HEADS, WHOLE


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


def _one_way(tracer: Tracer, laid: Tensor, varied: Sequence[int], after: Sequence[int]) -> Tensor:
    """Let whole slices along one of several dimensions leave: heads, where a module knows them."""
    name, module = tracer.inside()
    counts = counted(module, HEADS)
    along_heads = heads_along(laid, varied, counts.values(), counted(module, HEAD_WIDTHS).values())
    chosen = _widest(module, varied, after) if along_heads is None else along_heads
    one = laid
    for d in varied:
        one = one if d == chosen else one.narrow(d, 0, 1)
    tracer.labels.tie(laid, one, "its channels are reshaped together with others that stay")
    for attribute, count in counts.items():
        if along_heads is not None and counts_slices(one, chosen, count):
            tracer.resize(name, attribute, _first(one, chosen, count))
    return one


def _widest(module: nn.Module, varied: Sequence[int], after: Sequence[int]) -> int:
    """The dimension that channels lie along: in front of space, or else the widest."""
    if isinstance(module, nn.Unflatten) or len(varied) > 2:
        return varied[0]
    return max(varied, key=lambda d: after[d])


def _note_whole(tracer: Tracer, laid: Tensor, dim: int, attributes: Sequence[str]) -> None:
    """Some modules remember how wide something is: heads put side by side again, or an embedding."""
    name, module = tracer.inside()
    for attribute in attributes:
        if vars(module).get(attribute) == laid.shape[dim]:
            tracer.resize(name, attribute, _first(laid, dim, laid.shape[dim]))


def _first(one: Tensor, dim: int, count: int) -> Tensor:
    first = one
    for d in range(one.dim()):
        if d != dim:
            first = first.narrow(d, 0, 1)
    return first.flatten()[:count]
