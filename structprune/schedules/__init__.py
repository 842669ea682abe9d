"""Schedules: how much is gone after each step, as generators of fractions. No torch in here."""

from __future__ import annotations

from collections.abc import Iterator

from structprune.errors import UsageError


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


__all__ = ["exponential", "one_shot"]
