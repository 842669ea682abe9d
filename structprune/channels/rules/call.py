"""What a rule gets: the call of an operation, and what it may ask of the trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from structprune.channels.counted import Given
from structprune.channels.labels import Labels, Tag

LARGEST = 1 << 26
"""Entries of a tensor up to which its labels are laid out one by one, 512 MB of them."""

MOST_INPUTS = 4
"""Inputs that a trace runs on; heads may be laid out once for each."""


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
    given: Given

    def tag(self, tensor: Tensor) -> Tag:
        """Return what is known of a tensor."""

    def inside(self) -> tuple[str, nn.Module]:
        """Return the module whose forward pass is running."""

    def read(self, layer: str) -> Tensor:
        """Return the labels of the inputs of a layer that is run, (I,)."""

    def written(self, layer: str) -> Tensor:
        """Return the labels of a layer's outputs, (O,)."""

    def pin_once_used(self, results: Sequence[Tensor], labels: Sequence[Tensor], reason: str) -> None:
        """Say that labels can't leave if anything is made of these results, or they are put out."""

    def balance(self, pieces: Sequence[Tensor]) -> None:
        """Note pieces of a split, which can shrink only if they turn out to be tied to each other."""

    def resize(self, module: str, attribute: str, labels: Tensor) -> None:
        """Note that an attribute counts these labels."""

    def carried(self, norm: str, size: int) -> Tensor:
        """Return the labels of what a norm normalises, (C,)."""


Rule = Callable[[Tracer, Call], Sequence[Tag]]


def for_all(call: Call, tag: Tag) -> Sequence[Tag]:
    """Give every result the same tag."""
    return [tag] * len(call.outputs)


def makers_of(tracer: Tracer, call: Call) -> frozenset[str]:
    """Return the layers that made what goes in."""
    return frozenset().union(*(tracer.tag(x).makers for x in call.tensors))


def dims_of(dims: Any, rank: int) -> frozenset[int]:
    """Return dimensions as numbers from zero on; none given, or an empty list, for all."""
    if dims is None or dims == []:
        return frozenset(range(rank))
    many = dims if isinstance(dims, (list, tuple)) else [dims]
    return frozenset(d % max(rank, 1) for d in many)


def without(shape: Sequence[int], dims: frozenset[int]) -> list[int]:
    """Return a shape less some dimensions."""
    return [size for d, size in enumerate(shape) if d not in dims]
