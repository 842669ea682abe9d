"""Whole numbers that know whose they are: the width of a layer, of a tensor, or an attribute of a module.

Such a number goes through the code like any other, through sums, products and divisions without a remainder,
and where an operation gets it as a size, :func:`count` ties the labels there to what it counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

from torch import Tensor

from structprune.channels.labels import Labels, Tag


@dataclass(frozen=True)
class Place:
    """Where a module holds a number.

    Attributes:
        module: its name in the model.
        attribute: the attribute's name.
        index: which of the attribute's numbers it is, where that is a list or tuple.
    """

    module: str
    attribute: str
    index: int | None = None


@dataclass(frozen=True, eq=False)
class Term:
    """A part of a number: a multiple or a fraction of what an attribute or some labels count.

    Attributes:
        source: where the number comes from: an attribute, or labels (C,) one for each that is counted.
        size: how many the source counts.
        labels: of the trace that it is a number of; caches of a network's own may keep it for longer.
        factor: of the source's number that this one is.
    """

    source: Place | Tensor
    size: int
    labels: Labels
    factor: Fraction = Fraction(1)

    @property
    def value(self) -> int:
        """The number itself."""
        return int(self.size * self.factor)


class Counted(int):
    """A whole number that knows whose it is, through sums, products and divisions without a remainder."""

    terms: tuple[Term, ...]

    def __new__(cls, terms: tuple[Term, ...]) -> Counted:
        """Make the sum of terms."""
        made = super().__new__(cls, sum(term.value for term in terms))
        made.terms = terms
        return made

    def __add__(self, other: int) -> int:
        """Add; beside a number of nobody's the sum is nobody's."""
        return (
            Counted((*self.terms, *other.terms)) if isinstance(other, Counted) else int.__add__(self, other)
        )

    def __mul__(self, other: int) -> int:
        """Multiply by a whole number."""
        return self._times(Fraction(int(other))) if isinstance(other, int) else NotImplemented

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> int:
        """Divide by a whole number."""
        if not isinstance(other, int) or int(other) < 1 or int.__mod__(self, other):
            return int.__floordiv__(self, other)
        return self._times(Fraction(1, int(other)))

    def _times(self, factor: Fraction) -> int:
        terms = tuple(replace(term, factor=term.factor * factor) for term in self.terms)
        whole = all((term.size * term.factor).denominator == 1 for term in terms)
        return Counted(terms) if whole and factor > 0 else int(int(self) * factor)

    def __hash__(self) -> int:
        """Be the number as a key, but for a width of a tensor: what is cached by it is not another's."""
        sources = [term.source for term in self.terms]
        return int.__hash__(self) + sum(id(source) for source in sources if isinstance(source, Tensor))

    def __eq__(self, other: object) -> bool:
        """Compare as numbers do."""
        return int.__eq__(self, other)

    def of(self, labels: Labels) -> bool:
        """Tell whether it is a number of a trace."""
        return all(term.labels is labels for term in self.terms)

    def __deepcopy__(self, memo: Any) -> Counted:
        """Return itself, as numbers do."""
        return self

    def __reduce__(self) -> Any:
        """Be pickled as a plain number."""
        return int, (int(self),)


class Shape(tuple[int, ...]):
    """A tensor's shape whose numbers know whose they are, in the place of torch's own."""

    def numel(self) -> int:
        """Return how many entries there are."""
        return math.prod(int(size) for size in self)

    def __getitem__(self, which: Any) -> Any:
        """Return a number, or a shape of some."""
        found = super().__getitem__(which)
        return Shape(found) if isinstance(which, slice) else found

    def __add__(self, other: Any) -> Any:
        """Put another shape behind."""
        return Shape((*self, *other))


class Book(Protocol):
    """What numbers ask of the trace."""

    labels: Labels
    muted: int
    given: Given

    def tag(self, tensor: Tensor) -> Tag:
        """Return what is known of a tensor."""

    def counted(self, place: Place, labels: Tensor) -> None:
        """Note that an attribute counts these labels."""

    def as_many(self, some: Tensor, others: Tensor) -> None:
        """Note that one number counts both."""

    def make(self, tensor: Tensor, dim: int) -> None:
        """Give a new tensor labels of its own along a dimension."""


@dataclass(frozen=True)
class Given:
    """What the call that is running was given.

    Attributes:
        sizes: its numbers that are known to follow a cut.
        apart: whether every piece of a split has a number of its own, or all but one.
    """

    sizes: frozenset[int] = frozenset()
    apart: bool = False


NONE_GIVEN = Given()


def is_number(value: object) -> bool:
    """Tell whether a value is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def count(book: Book, number: Counted, labels: Tensor) -> None:
    """Let a number count labels (number,): as they leave its attributes shrink, and as many of its own leave.

    A multiple counts rows that leave together, a fraction is that of a number that counts them so often.
    """
    start = 0
    for term in number.terms:
        run = labels[start : start + term.value]
        start += term.value
        rows = _one_a_multiple(run, term.factor.numerator)
        book.labels.tie(rows, rows[:1], "its channels are counted together with others that stay")
        own = rows[0].repeat(term.factor.denominator)
        if isinstance(term.source, Place):
            book.counted(term.source, own)
        else:
            book.as_many(term.source, own)


def _one_a_multiple(run: Tensor, times: int) -> Tensor:
    """Lay labels (times * size,) out in rows (times, size), one label a column of what is counted.

    Parts beside each other repeat what is counted one after the other; heads of several entries have theirs
    side by side, and one label for all of them.
    """
    side_by_side = run.reshape(-1, times)
    is_so = bool((side_by_side == side_by_side[:, :1]).all())
    return side_by_side.T if is_so else run.reshape(times, -1)
