"""From measured points to blocks, the conditions of the fast path, and rates for the widths in between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from exporters.profiling.chains import TAPS
from structprune.hardware.profile import Kernel, Rates, Step, work

REFERENCE = 64
"""Width of the layers around one that is tried: it fills every block."""

WIDTHS = (4, 8, 12, 15, 16, 17, 18, 20, 24, 28, 30, 31, 32, 33, 34, 36, 40, 48, 56, 60, 62, 63, 64)
"""Widths that are tried; every candidate of a block or divisor has some on and off it."""

SIDES = (14, 28)
"""Heights and widths of the images on which they are."""

BLOCKS = (32, 16, 8, 4, 2)
FULL = 0.85
"""A width belongs to the block above it where it costs at least this part of the filled one."""

FAST = 1.18
"""A width is on the fast path where it costs at most this multiple of the filled block."""

SAME = 0.9
"""Fewer inputs than a block are on it only where they cost no less: else they have a path of their own."""

LEAST_POINTS = 6
Times = Mapping[int, float]
"""Width -> microseconds, summed over image sizes."""


def kernel_of(kind: str, steps: Sequence[Step]) -> Kernel:
    """Find out how the runtime runs a kind of layer.

    Args:
        kind: of layer.
        steps: measured points; those of other kinds are passed over.
    """
    own = [step for step in steps if step.kind == kind]
    written, read = tried(kind, steps)
    if not written:
        rates = _rates(kind, own, 1)
        return Kernel(1, 1, 1, rates, rates, rates)
    block = block_of(written)
    divisor = divisor_of(read, block)
    first = first_of(read, block, divisor)
    paths = {"fast": [s for s in own if s.inputs >= first and s.inputs % divisor == 0]}
    paths["narrow"] = [s for s in own if s.inputs < first]
    paths["slow"] = [s for s in own if s.inputs >= first and s.inputs % divisor]
    fast = _rates(kind, paths["fast"], block)
    slow = _rates(kind, paths["slow"], 1) if len(paths["slow"]) >= LEAST_POINTS else fast
    few = len(paths["narrow"]) < LEAST_POINTS
    return Kernel(block, first, divisor, fast, slow if few else _narrow(kind, paths["narrow"], block), slow)


def tried(kind: str, steps: Sequence[Step]) -> tuple[dict[int, float], dict[int, float]]:
    """Return width -> microseconds of the widths that were tried, as they are written and read."""
    own = [step for step in steps if step.kind == kind]
    return _by_width(own, "outputs", "inputs"), _by_width(own, "inputs", "outputs")


def _by_width(steps: Sequence[Step], side: str, other: str) -> dict[int, float]:
    """Sum over image sizes the best times of the widths that were tried against the reference."""
    best: dict[tuple[int, int], float] = {}
    for step in steps:
        width = getattr(step, side)
        beside = width if step.kind == "depthwise" else REFERENCE
        if getattr(step, other) == beside and width in WIDTHS and step.side in SIDES:
            best[width, step.side] = min(step.us, best.get((width, step.side), step.us))
    sums: dict[int, float] = defaultdict(float)
    for (width, _), us in best.items():
        sums[width] += us
    return sums


def block_of(written: Times) -> int:
    """Return the largest block that a width must fill before more channels cost more.

    Example:
        >>> block_of({w: ceil(w / 8) for w in WIDTHS})
        8
    """
    whole = (block for block in BLOCKS if all(_full(written, width, block) for width in written))
    return next(whole, 1)


def _full(written: Times, width: int, block: int) -> bool:
    filled = ceil(width / block) * block
    return filled not in written or written[width] >= FULL * written[filled]


def divisor_of(read: Times, block: int) -> int:
    """Return what a number of inputs must be a multiple of, to be as fast as a filled block."""
    divisors = [d for d in (1, 2, 4, 8, 16, 32) if block % d == 0]
    return next(
        (d for d in divisors if all(_fast(read, w, block) for w in read if w >= block and not w % d)), block
    )


def first_of(read: Times, block: int, divisor: int) -> int:
    """Return the least number of inputs from which on every multiple of the divisor is as fast."""
    valid = [width for width in sorted(read) if width % divisor == 0 and width <= block]
    alike = [_fast(read, w, block) and read[w] >= SAME * read.get(block, read[w]) for w in valid]
    return next((width for i, width in enumerate(valid) if all(alike[i:])), block)


def _fast(read: Times, width: int, block: int) -> bool:
    filled = ceil(width / block) * block
    return filled not in read or read[width] <= FAST * read[filled]


def _rates(kind: str, steps: Sequence[Step], block: int) -> Rates:
    """Fit rates, none negative, to points whose widths are filled up to the block.

    Squares of relative errors, so that a layer of ten microseconds counts as much as one of a thousand.
    """
    return _fit(kind, [(_up(s.inputs, block), _up(s.outputs, block), s) for s in steps])


def _narrow(kind: str, steps: Sequence[Step], block: int) -> Rates:
    return _fit(kind, [(s.inputs, _up(s.outputs, block), s) for s in steps])


def _fit(kind: str, rows: Sequence[tuple[int, int, Step]]) -> Rates:
    taps = TAPS[kind] ** 2
    depthwise = kind == "depthwise"
    parts = np.array([work(taps, s.side**2, 1, 1 if depthwise else i, o) for i, o, s in rows], dtype=float)
    us = np.array([max(s.us, 0.5) for _, _, s in rows])
    from scipy.optimize import nnls  # a third of a second, which only probing needs

    found, _ = nnls(parts / us[:, None], np.ones(len(us)))
    return Rates(*(float(f"{rate:.4g}") for rate in found))


def _up(width: int, block: int) -> int:
    return ceil(width / block) * block
