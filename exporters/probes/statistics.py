"""Ratios with their intervals, and a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from structprune.report.data import MeasurementName, Ratio, Series

MARGIN = 0.03
"""How far from 1 the whole interval must lie to count.

The interval knows the scatter between blocks. It can't know what stays the same during one run and changes
with the next, such as where a session's buffers lie: of eight sessions of one file the medians lay up to
1.5 % apart where the blocks of each agreed to 0.1 %, and one file against itself once gave 1.03x (1.02-1.03).
"""


@dataclass(frozen=True)
class Words:
    """How a ratio is read aloud."""

    better: str
    worse: str
    gain: str


WORDS: dict[MeasurementName, Words] = {
    "batch_time": Words("faster", "slower", "speed-up"),
    "memory": Words("less", "more", "saving"),
    "disk": Words("smaller", "larger", "saving"),
    "flops": Words("fewer", "more", "saving"),
    "energy": Words("less", "more", "saving"),
    "emissions": Words("less", "more", "saving"),
}


def series(samples: Sequence[float]) -> Series:
    """Return the readings with their median.

    Example:
        >>> series([3.0, 1.0, 2.0]).median
        2.0
    """
    return Series(median=float(np.median(samples)), samples=tuple(float(sample) for sample in samples))


def bootstrap_ratio(
    dense: Sequence[float], pruned: Sequence[float], *, draws: int = 4000, seed: int = 0
) -> Ratio | None:
    """Median of the readings' own ratios, with its 95 % percentile-bootstrap interval.

    Reading b of both networks was taken at nearly the same time, so what slows the machine for a while slows
    both and cancels in their ratio; in the ratio of the two medians it does not (over 20 comparisons of a
    network with itself, 0.8 % of scatter against 0.5 %). A reading is a block's median and not a single run:
    the runs of a block are no independent draws, so blocks are what is drawn again.

    Args:
        dense: B readings of the dense network.
        pruned: B readings of the pruned network; reading b was taken beside ``dense[b]``.
        draws: bootstrap samples.
        seed: of the draws.

    Returns:
        dense / pruned, or None where a reading is not positive.

    Raises:
        ValueError: the readings don't pair up.
    """
    if len(dense) != len(pruned) or not dense:
        raise ValueError(f"readings come in pairs; got {len(dense)} dense and {len(pruned)} pruned")
    dense_B, pruned_B = np.asarray(dense, dtype=float), np.asarray(pruned, dtype=float)
    if min(dense_B.min(), pruned_B.min()) <= 0:
        return None
    ratio_B = dense_B / pruned_B
    picks_DB = np.random.default_rng(seed).integers(len(ratio_B), size=(draws, len(ratio_B)))
    low, high = np.percentile(np.median(ratio_B[picks_DB], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratio_B)), float(low), float(high))


def verdict(ratio: Ratio | None, name: MeasurementName) -> str:
    """Read a ratio aloud.

    Args:
        ratio: dense / pruned; one whose ends coincide is exact and is read without an interval.
        name: what was measured.

    Example:
        >>> verdict(Ratio(21.3, 20.8, 21.9), "batch_time")
        '21.3x faster (20.8-21.9)'
        >>> verdict(Ratio(1.04, 0.98, 1.1), "batch_time")
        '1.04x, 0.98-1.10: no real speed-up'
        >>> verdict(Ratio(0.5, 0.4, 0.625), "memory")
        '2.00x more (1.60-2.50)'
        >>> verdict(Ratio(4.0, 4.0, 4.0), "disk")
        '4.00x smaller'
    """
    if ratio is None:
        return ""
    words = WORDS[name]
    margin = 0.0 if ratio.low == ratio.high else MARGIN
    if ratio.low > 1 + margin:
        return _aloud(ratio, words.better)
    if ratio.high < 1 - margin:
        return _aloud(Ratio(1 / ratio.value, 1 / ratio.high, 1 / ratio.low), words.worse)
    if ratio.low == ratio.high:
        return f"{times(ratio.value)}x: no {words.gain}"
    return f"{times(ratio.value)}x, {times(ratio.low)}-{times(ratio.high)}: no real {words.gain}"


def _aloud(ratio: Ratio, word: str) -> str:
    interval = "" if ratio.low == ratio.high else f" ({times(ratio.low)}-{times(ratio.high)})"
    return f"{times(ratio.value)}x {word}{interval}"


def times(factor: float) -> str:
    """Write a factor with about three figures: 1.04, 21.3, 184."""
    decimals = 2 if factor < 9.95 else 1 if factor < 99.5 else 0
    return f"{factor:.{decimals}f}"
