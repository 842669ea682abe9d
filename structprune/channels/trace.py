"""What a pass over labelled tensors leaves behind, and what rules may ask of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from structprune.channels.counted import NONE_GIVEN, Given, Place
from structprune.channels.labels import Labels, Tag, along, disjoint, support
from structprune.channels.rules import rule_of
from structprune.channels.rules.call import Call
from structprune.channels.sandbox import exhausted
from structprune.errors import InputError

SECONDS = 180.0
"""How long a pass may take, on one thread; those of the zoo take some seconds."""


@dataclass(frozen=True)
class Segment:
    """A run of labels: one side of a layer, or one dimension of a loose parameter."""

    start: int
    size: int
    side: str
    name: str
    dim: int = 0


@dataclass
class Trace:
    """What a pass leaves behind, and what the rules ask of it."""

    labels: Labels = field(default_factory=Labels)
    segments: list[Segment] = field(default_factory=list)
    tags: Any = field(default_factory=WeakTensorKeyDictionary)
    sides: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    running: list[tuple[str, nn.Module]] = field(default_factory=list)
    pieces: list[list[Tensor]] = field(default_factory=list)
    sizings: dict[Place, Tensor] = field(default_factory=dict)
    pending: Any = field(default_factory=WeakTensorKeyDictionary)
    counts: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    given: Given = NONE_GIVEN
    sized: bool = True
    outputs: list[Tensor] = field(default_factory=list)
    cut_padded: bool = False
    embedding: bool = False
    muted: int = 0
    calls: int = 0
    started: float = field(default_factory=time.perf_counter)
    makers: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)

    # ---- what rules ask

    def tag(self, tensor: Tensor) -> Tag:
        """Return what is known of a tensor."""
        found: Tag = self.tags.get(tensor, _NOTHING)
        return found

    def inside(self) -> tuple[str, nn.Module]:
        """Return the module whose forward pass is running."""
        return self.running[-1]

    def read(self, layer: str) -> Tensor:
        """Return the labels of the inputs of a layer that is run, (I,)."""
        self.reached.add(layer)
        return self.sides.get((layer, "consumers"), self.sides[layer, "producers"])

    def written(self, layer: str) -> Tensor:
        """Return the labels of a layer's outputs, (O,)."""
        return self.sides[layer, "producers"]

    def resize(self, module: str, attribute: str, labels: Tensor) -> None:
        """Note that an attribute counts these labels."""
        self.sizings.setdefault(Place(module, attribute), labels)

    def counted(self, place: Place, labels: Tensor) -> None:
        """Note that an attribute counts these labels: of others that it counts as many must leave."""
        self.as_many(self.sizings.setdefault(place, labels), labels)

    def as_many(self, some: Tensor, others: Tensor) -> None:
        """Note that one number counts both, so that as many of the ones must leave as of the others."""
        if not torch.equal(some, others):
            self.counts.append((some, others))

    def make(self, tensor: Tensor, dim: int) -> None:
        """Give a new tensor of equal entries labels of its own along a dimension."""
        labels = along(tensor.dim(), dim, self.labels.new(tensor.shape[dim]))
        self.tags[tensor] = replace(self.tag(tensor), factors=(*self.tag(tensor).factors, labels))

    def carried(self, norm: str, size: int) -> Tensor:
        """Return the labels of what a norm normalises, (C,)."""
        known = self.sides.get((norm, "carriers"))
        return self.label("carriers", norm, size) if known is None else known

    def pin_once_used(self, results: Sequence[Tensor], labels: Sequence[Tensor], reason: str) -> None:
        """Say that labels can't leave if anything is made of these results, or they are put out."""
        if labels:
            for x in results:
                self.pending[x] = (*self.pending.get(x, ()), (tuple(labels), reason))

    def use(self, tensors: Iterable[Tensor]) -> None:
        """Note that something is made of tensors, or that they are put out."""
        for x in tensors if self.pending else ():
            for labels, reason in self.pending.pop(x, ()):
                self.labels.pin(labels, reason)

    def balance(self, pieces: Sequence[Tensor]) -> None:
        """Note pieces of a split, which can shrink only if they turn out to be tied to each other."""
        self.pieces.append(list(pieces))

    # ---- what a pass does

    def label(self, side: str, name: str, size: int, dim: int = 0) -> Tensor:
        """Make the labels of one side of a layer, or of one dimension of a parameter."""
        made = self.labels.new(size)
        self.segments.append(Segment(int(made[0]) if size else self.labels.count, size, side, name, dim))
        self.sides[name, side] = made
        return made

    def record(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Give the results of a call their tags.

        Raises:
            InputError: the pass takes longer than any network's.
        """
        self.calls += 1
        if time.perf_counter() - self.started > SECONDS:
            raise InputError(
                f"it is not done after {SECONDS:g} s and {self.calls:,} operations, "
                f"in {self.running[-1][0] or 'its forward pass'}"
            )
        outputs = tuple(x for x in tree_leaves(out) if isinstance(x, Tensor))
        call = Call(_name(operation), _bound(operation, args, kwargs), outputs)
        tags = [self.tag(x) for x in call.tensors]
        self.use(call.tensors)
        made: Sequence[Tag]
        if any(tag.factors or tag.layer for tag in tags) or (call.name == "expand" and self.running):
            made = self._ruled(operation, call, tags)
        else:
            makers = frozenset().union(*(tag.makers for tag in tags))
            made = [Tag((), makers, bool(tags) and all(tag.weight for tag in tags))] * len(outputs)
        for x, tag in zip(outputs, made, strict=True):
            # A factor that is the same everywhere tells entries apart no more.
            told = [f for f in tag.factors if support(f)]
            self.tags[x] = replace(tag, factors=tuple(disjoint(self.labels, told)))

    def _ruled(self, operation: Any, call: Call, tags: Sequence[Tag]) -> Sequence[Tag]:
        rule = rule_of(operation, call.name)
        reason = f"its channels meet {call.name}, which is not known to keep channels apart"
        if rule is not None:
            try:
                return rule(self, call)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                if exhausted(error):
                    raise
                reason = f"its channels meet {call.name} in a form that is not known to keep channels apart"
        self.labels.pin([f for tag in tags for f in tag.factors], reason)
        makers = frozenset().union(*(tag.makers for tag in tags))
        return [Tag((), makers)] * len(call.outputs)


_NOTHING = Tag()


def _name(operation: Any) -> str:
    namespace, _, name = str(operation._schema.name).partition("::")
    if namespace not in ("aten", "prims"):
        return f"{namespace}::{name}"
    in_place = name.endswith("_") and not name.endswith("__") and rule_of(operation, name[:-1]) is not None
    return name[:-1] if in_place else name


def _bound(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in operation._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}
