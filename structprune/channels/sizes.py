"""Numbers that a forward pass hands to operations as sizes, and whose widths they are.

Code says how wide something is in three ways: by an attribute of a module, by the shape of a tensor, and by a
number that is written down. The first two follow a cut if it is known where they come from. So while a pass
is traced, whole numbers of modules and shapes are numbers that know: they go through the code like any other,
and where a split, a slice, a reshape or a new tensor gets one of them, the labels there are what it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from structprune.channels.counted import NONE_GIVEN, Book, Counted, Given, Place, Shape, Term, count
from structprune.channels.labels import Labels, support
from structprune.nn.layers import Recurrent, is_depthwise, is_weighted


@contextmanager
def watched(model: nn.Module, labels: Labels, sides: Mapping[tuple[str, str], Tensor]) -> Iterator[None]:
    """Let the whole numbers of a network's modules know whose they are while the block runs.

    Args:
        model: a copy that is only run.
        labels: those of the trace.
        sides: (layer, side) -> labels of that side.
    """
    plain: list[tuple[dict[str, Any], str, Any, Any]] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for attribute, value in list(vars(module).items()):
            numbers = _known(Place(name, attribute), module, value, labels, sides)
            if numbers is not None:
                plain.append((vars(module), attribute, value, numbers))
    try:
        for own, attribute, _, numbers in plain:
            own[attribute] = numbers
        yield
    finally:
        for own, attribute, value, numbers in plain:
            if own.get(attribute) is numbers:
                own[attribute] = value


_WIDTHS = {
    "out_channels": "producers",
    "nf": "producers",
    "nx": "consumers",
    "out_features": "producers",
    "in_channels": "consumers",
    "in_features": "consumers",
}


def _known(
    place: Place, module: nn.Module, value: Any, labels: Labels, sides: Mapping[tuple[str, str], Tensor]
) -> Any:
    name, attribute = place.module, place.attribute
    if is_weighted(module) and attribute in _WIDTHS:  # a cut changes these by itself
        side = sides.get((name, "producers" if is_depthwise(module) else _WIDTHS[attribute]))
        return None if side is None else _of_labels(side, labels)
    if isinstance(module, Recurrent) and attribute == "hidden_size":
        units = sides.get((name, "producers"))
        return None if units is None else _of_labels(units[:value], labels)
    if type(module).__module__.startswith("torch.nn.") and attribute != "unflattened_size":
        return None
    if type(value) is int and value > 1:
        return Counted((Term(place, value, labels),))
    if type(value) in (list, tuple) and value and all(type(v) is int and v >= 0 for v in value):
        terms = [Term(replace(place, index=i), v, labels) for i, v in enumerate(value)]
        return type(value)(Counted((term,)) if term.size > 1 else term.size for term in terms)
    return None


def _of_labels(counted: Tensor, labels: Labels) -> Counted:
    return Counted((Term(counted, len(counted), labels),))


MIXING = ("local_response_norm",)
"""Calls in which neighbouring channels change each other, whose operations would tell it less plainly."""

_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]

SHAPED = ("view", "reshape", "unflatten", "expand", "broadcast_to")
"""Calls that are told the sizes of what comes out, in their order."""

_REPEATING = ("expand", "broadcast_to")

MADE = tuple(f"{new}{what}" for new in ("", "new_") for what in ("zeros", "ones", "full", "empty"))
"""Calls that make a tensor whose entries are all alike, so that it matters not which of them leave."""


class Sizes(TorchFunctionMode):
    """Watches calls that take sizes, and those that tell them."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self.book = book

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.book.muted:
            return func(*args, **kwargs)
        if name == "size" or func == _SHAPE:
            return self._shape(func(*args, **kwargs), args, kwargs)
        if name in MIXING:
            reason = f"its channels are mixed by {name}"
            self.book.labels.pin(self.book.tag(args[0] if args else kwargs["input"]).factors, reason)
        values = (*args, *kwargs.values())
        numbers = [n for n in _numbers(values) if isinstance(n, Counted) and n.of(self.book.labels)]
        if not numbers:
            return func(*args, **kwargs)
        self.book.given = Given(
            frozenset(int(n) for n in numbers), name.startswith("split") and _apart(values)
        )
        try:
            out = func(*args, **kwargs)
        finally:
            self.book.given = NONE_GIVEN
        self._count(name, args, kwargs, out)
        return out

    def _shape(self, out: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        x = args[0]
        known = [f for f in self.book.tag(x).factors if len(support(f)) == 1]
        labels = {next(iter(support(f))): f.flatten() for f in known}
        if not labels:
            return out
        numbers = [
            _of_labels(labels[d], self.book.labels) if d in labels else size for d, size in enumerate(x.shape)
        ]
        if isinstance(out, int):
            return numbers[args[1] if len(args) > 1 else kwargs["dim"]]
        return Shape(numbers)

    def _count(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        if name.startswith("split"):
            dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
            keys = ("split_size", "split_size_or_sections", "split_sizes")
            sizes = _numbers((*args[1:2], *(kwargs[k] for k in keys if k in kwargs)))
            sizes = sizes if len(sizes) == len(out) else sizes[:1] * len(out)
            for piece, number in zip(out, sizes, strict=True):
                if number == piece.shape[dim]:
                    self._count_run(piece, dim, number)
        elif name == "__getitem__":
            for dim, boundary in _boundaries(args[1], args[0].dim()):
                self._count_run(args[0], dim, boundary)
        elif name == "narrow":
            dim, start, length = (*args[1:], *(kwargs[k] for k in ("dim", "start", "length") if k in kwargs))
            self._count_run(args[0], dim, start)
            self._count_run(out, dim, length)
        elif name in SHAPED or name in MADE:
            for dim, number in _dimensions(name, args, kwargs, out):
                if isinstance(number, Counted) and self._adds_width(name, args, out, dim):
                    self.book.make(out, dim)
                self._count_run(out, dim, number)

    def _adds_width(self, name: str, args: tuple[Any, ...], out: Tensor, dim: int) -> bool:
        """Tell whether new entries along a dimension are a width of their own, which nobody labelled yet."""
        # What repeats channels, as keys and values for several queries, adds none.
        repeats = name in _REPEATING and bool(self.book.tag(args[0]).factors)
        labelled = any(dim in support(factor) for factor in self.book.tag(out).factors)
        return _is_new(name, args, out, dim) and not repeats and not labelled

    def _count_run(self, x: Tensor, dim: int, number: int) -> None:
        """A number counts the first entries along a dimension."""
        if not isinstance(number, Counted) or number > x.shape[dim] or not number.of(self.book.labels):
            return
        for factor in self.book.tag(x).factors:
            if support(factor) == {dim % x.dim()}:
                count(self.book, number, factor.flatten()[:number])


def _is_new(name: str, args: tuple[Any, ...], out: Tensor, dim: int) -> bool:
    """Tell whether entries along a dimension of what comes out are new and all alike."""
    if name not in _REPEATING:
        return name in MADE
    before = args[0].dim() - out.dim() + dim
    return bool(before < 0 or (args[0].shape[before] == 1 < out.shape[dim]))


def _dimensions(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor
) -> Iterator[tuple[int, int]]:
    """Yield dimensions of what comes out with the numbers that were given for them."""
    values = [*(kwargs[k] for k in ("size", "sizes", "shape") if k in kwargs), *args]
    rows = [list(value) for value in values if isinstance(value, (tuple, list))]
    sizes = rows[0] if rows else [value for value in values if isinstance(value, int)]
    first = 0
    if name == "unflatten":
        first = kwargs["dim"] if "dim" in kwargs else args[1]
        first += (out.dim() - len(sizes) + 1) if first < 0 else 0
    for dim, number in enumerate(sizes, start=first):
        if dim < out.dim() and number == out.shape[dim]:
            yield dim, number


def _boundaries(index: Any, rank: int) -> Iterator[tuple[int, int]]:
    """Yield dimensions with the numbers at which slices along them begin and end."""
    entries = list(index) if isinstance(index, tuple) else [index]
    if not all(isinstance(one, (int, slice)) or one is None or one is Ellipsis for one in entries):
        return
    dim, taken = 0, sum(isinstance(one, (int, slice)) for one in entries)
    for one in entries:
        if isinstance(one, slice):
            yield from ((dim, boundary) for boundary in (one.start, one.stop) if boundary is not None)
        dim += rank - taken if one is Ellipsis else one is not None


def _numbers(values: Iterable[Any]) -> list[int]:
    """Whole numbers among arguments, those in lists and slices too."""
    numbers: list[int] = []
    for value in values:
        if isinstance(value, slice):
            numbers += _numbers((value.start, value.stop))
        elif isinstance(value, (tuple, list)):
            numbers += _numbers(value)
        elif isinstance(value, int):
            numbers.append(value)
    return numbers


def _apart(values: Sequence[Any]) -> bool:
    lists = [list(value) for value in values if isinstance(value, (tuple, list))]
    sources = {_source(n) for row in lists for n in row if isinstance(n, Counted)}
    return bool(lists) and len(sources) >= len(lists[0]) - 1


def _source(number: Counted) -> tuple[Any, ...]:
    return tuple(
        (term.source if isinstance(term.source, Place) else id(term.source), term.factor)
        for term in number.terms
    )
