"""Budgets in the units that people pay in, as they are written: ``90%``, ``2M``, ``5MB``, ``2ms``, ``4x``.

A plain fraction or a percentage is what is **removed**, an amount with a unit is what may be **left**, and a
speed-up is the dense network's time over the pruned one's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from structprune.errors import UsageError, argument

Form = Literal["removed", "left", "factor"]

_COUNTS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_MEGABYTES = {
    "b": 1e-6, "kb": 1e-3, "mb": 1.0, "gb": 1e3,
    "kib": 2**10 / 1e6, "mib": 2**20 / 1e6, "gib": 2**30 / 1e6,
}  # fmt: skip
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}

_REMOVED = "0.9 or 90% (removes 90 %)"
# As in 1.5e6, and what stands behind it.
_WRITTEN = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-zµ%]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Quantity:
    """Something that a network has and that can be limited.

    Attributes:
        unit: of its values: ``ms``, ``MB``, or none for counts.
        scales: what may be written behind an amount, in lower case -> its size in ``unit``.
        removable: whether a fraction of it can be asked to go.
        expected: what may be written, in words.
        measured: whether a clock or the operating system tells, and not arithmetic.
    """

    unit: str
    scales: Mapping[str, float]
    removable: bool
    expected: str
    measured: bool = False


LEAST_COUNT = 1000
"""From here on a bare number is how many may be left; a smaller one is likelier a slip for a percentage."""

_COUNTED = Quantity(
    "", _COUNTS, True, f"{_REMOVED}, or an amount from {LEAST_COUNT} on: 2M or 6000 (may be left)"
)

QUANTITIES: Mapping[str, Quantity] = {
    "nodes": Quantity("", {}, True, "a fraction from 0 to below 1; 0.89 removes 89 %"),
    "weights": _COUNTED,
    "params": _COUNTED,
    "flops": _COUNTED,
    "disk": Quantity("MB", _MEGABYTES, True, f"{_REMOVED}, or a size with its unit: 5MB (may be left)"),
    "memory": Quantity(
        "MB", _MEGABYTES, True, f"{_REMOVED}, or a size with its unit: 60MB (may be left)", measured=True
    ),
    "latency": Quantity("ms", _MILLISECONDS, False, "a time with its unit: 2ms", measured=True),
    "speedup": Quantity("x", {}, False, "a factor above 1: 4 or 4x", measured=True),
}
"""Every quantity that can be limited, in the order in which reports show them."""


@dataclass(frozen=True)
class Limit:
    """One limit.

    Attributes:
        name: of the quantity.
        form: whether ``value`` is the fraction to remove, what may be left, or how many times less time.
        value: a fraction in [0, 1), an amount in the quantity's unit, or a factor above 1.
        written: as it was asked for, without spaces; a fraction as such: ``0.9``, ``2M``, ``4x``.
    """

    name: str
    form: Form
    value: float
    written: str

    def left(self, dense: float) -> float:
        """Return how much may be left of what the dense network has; of a speed-up, of its time.

        Example:
            >>> read_limit("params", "90%").left(1000), read_limit("speedup", "4").left(20)
            (100.0, 5.0)
        """
        if self.form == "removed":
            return round(dense * (1 - self.value), 9)
        return self.value if self.form == "left" else dense / self.value

    @property
    def words(self) -> str:
        """What it asks for, in words."""
        if self.form == "removed":
            return f"{100 * self.value:.4g} % removed"
        return f"at most {self.written}" if self.form == "left" else f"{self.value:g}x faster"

    @property
    def measured(self) -> bool:
        """Whether only a measurement tells if it is kept."""
        return QUANTITIES[self.name].measured


def read_limit(name: str, written: str | float) -> Limit:
    """Read one limit.

    Args:
        name: of the quantity.
        written: what is asked for.

    Raises:
        UsageError: there is no such quantity, or it can't be limited so.

    Example:
        >>> read_limit("latency", "2 ms")
        Limit(name='latency', form='left', value=2.0, written='2ms')
        >>> read_limit("params", 0.9).words, read_limit("flops", "300M").words
        ('90 % removed', 'at most 300M')
    """
    if name not in QUANTITIES:
        raise UsageError(f"unknown limit {name!r}; known: {', '.join(QUANTITIES)}")
    quantity, text = QUANTITIES[name], str(written).strip()
    found = _WRITTEN.fullmatch(text)
    number, unit = (float(found[1]), found[2].lower()) if found else (math.nan, "")
    limit = _limit(name, quantity, number, unit, "".join(text.split()))
    if limit is None:
        raise UsageError(f"{argument(name, text)}: expected {quantity.expected}")
    return limit


def _limit(name: str, quantity: Quantity, number: float, unit: str, written: str) -> Limit | None:
    """Return the limit, or None where number and unit make none."""
    if name == "speedup":
        fits = unit in ("", "x") and 1 < number < math.inf
        return Limit(name, "factor", number, f"{number:g}x") if fits else None
    if unit in quantity.scales:
        fits = 0 < number < math.inf
        return Limit(name, "left", number * quantity.scales[unit], written) if fits else None
    if quantity is _COUNTED and not unit and number >= LEAST_COUNT and number.is_integer():
        return Limit(name, "left", number, written)
    fraction = number / 100 if unit == "%" else number
    fits = quantity.removable and unit in ("", "%") and 0 <= fraction < 1
    return Limit(name, "removed", fraction, f"{fraction:g}") if fits else None


def read_limits(asked: Mapping[str, str | float | None]) -> tuple[Limit, ...]:
    """Read every limit that is given, in the order of :data:`QUANTITIES`.

    Args:
        asked: name -> what is asked for, or None where nothing is.

    Raises:
        UsageError: nothing is asked for, or something that makes no sense.

    Example:
        >>> [limit.words for limit in read_limits({"speedup": 4, "nodes": None, "disk": "5MB"})]
        ['at most 5MB', '4x faster']
    """
    given = {name: value for name, value in asked.items() if value is not None}
    limits = [read_limit(name, value) for name, value in given.items()]
    if not limits:
        others = ", ".join(argument(name) for name in QUANTITIES if name != "nodes")
        raise UsageError(
            f"say how much to remove: {argument('nodes', 0.89)} removes 89 % of the nodes; "
            f"or give other limits, alone or together: {others}"
        )
    names = list(QUANTITIES)
    return tuple(sorted(limits, key=lambda limit: names.index(limit.name)))


def fraction_of_nodes(remove: float) -> Limit:
    """Limit that removes a fraction of the nodes."""
    return Limit("nodes", "removed", remove, f"{remove:g}")


def nodes_of(limits: Sequence[Limit]) -> float | None:
    """Fraction of nodes to remove, or None where limits speak of other things alone."""
    return next((limit.value for limit in limits if limit.name == "nodes"), None)
