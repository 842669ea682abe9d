"""How much is gone after each of several cuts: cumulative fractions, the last one exactly the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from structprune.errors import UsageError

Fractions = Callable[[float], Iterator[float]]
"""The fraction to remove -> the cumulative fractions after each cut."""


def one_shot(remove: float) -> Iterator[float]:
    """Yield the target at once.

    Example:
        >>> list(one_shot(0.89))
        [0.89]
    """
    yield remove


def exponential(remove: float, steps: int) -> Iterator[float]:
    """Yield cumulative fractions that keep the same share of the survivors in every step.

    Args:
        remove: the final fraction s.
        steps: how many, T; after step t the fraction 1 - (1 - s)^(t / T) is gone (SNIP's and NTK-SAP's
            iterative form, arXiv 2006.09081 and 2304.02840).

    Raises:
        UsageError: fewer than one step.

    Example:
        >>> [round(fraction, 3) for fraction in exponential(0.875, 3)]
        [0.5, 0.75, 0.875]
    """
    if steps < 1:
        raise UsageError(f"{steps} steps; a schedule has at least one")
    for step in range(1, steps):
        yield 1.0 - (1.0 - remove) ** (step / steps)
    yield remove  # exactly, not by way of powers


def halving(remove: float, steps: int = 5, start: float = 0.5) -> Iterator[float]:
    """Yield cumulative fractions that halve the way to the target: s - (s - start) / 2^i, then s.

    CroPit's and EarlyCroP-U's steps (arXiv 2206.10451). The published code starts at 0.5 even if the target
    is below that, and what it removes too much never comes back; a start that is not below the target is
    replaced by half the target, which at s = 0.5 is EarlyCroP-U's own start of 0.25.

    Args:
        remove: the final fraction s.
        steps: the last i, n; there are n + 2 fractions, i = 0..n and s itself.
        start: the first fraction, if it is below s.

    Raises:
        UsageError: fewer than zero steps.

    Example:
        >>> [round(fraction, 3) for fraction in halving(0.98)]
        [0.5, 0.74, 0.86, 0.92, 0.95, 0.965, 0.98]
        >>> [round(fraction, 3) for fraction in halving(0.4, steps=1)]
        [0.2, 0.3, 0.4]
    """
    if steps < 0:
        raise UsageError(f"{steps} halvings; expected zero or more")
    first = start if start < remove else remove / 2
    for step in range(steps + 1):
        yield remove - (remove - first) * 0.5**step
    yield remove


def rounds(remove: float, share: float = 0.2) -> Iterator[float]:
    """Yield 1 - (1 - share)^k for k = 1, 2, ... below the target, then the target.

    Lottery tickets lose 20 % of the survivors a round (arXiv 1803.03635 and 2003.02389): 18 rounds for 98 %.

    Args:
        remove: the final fraction, in [0, 1).
        share: of the survivors, how many go in a round; the last round takes what is left to take.

    Raises:
        UsageError: a fraction outside [0, 1), or a share outside (0, 1).

    Example:
        >>> [round(fraction, 3) for fraction in rounds(0.5)]
        [0.2, 0.36, 0.488, 0.5]
    """
    if not (0 <= remove < 1 and 0 < share < 1):
        raise UsageError(f"{remove:g} in rounds of {share:g}; expected 0 <= fraction < 1 and 0 < share < 1")
    # The margin is for targets that are a round themselves: 0.36 takes two rounds, whatever log says.
    count = math.ceil(math.log(1 - remove) / math.log(1 - share) - 1e-9)
    for done in range(1, count):
        yield 1.0 - (1.0 - share) ** done
    yield remove
