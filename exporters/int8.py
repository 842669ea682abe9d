"""An int8 file beside the float32 one: written, compared and timed, whatever comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from exporters.measure import Setting, measure_files
from exporters.to_int8 import compare_files, to_int8
from structprune.report import Int8, Measurement

LEAST = 16
"""Inputs from which on those that calibrate are held apart from those that are compared on."""


def quantised(
    path: Path,
    out: Path,
    inputs: tuple[Tensor, ...],
    setting: Setting | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Int8:
    """Write an int8 form of a file, compare its outputs, and time both in turn.

    Args:
        path: the float32 file.
        out: where the int8 file goes.
        inputs: each tensor of shape [N, ...]; every second one calibrates and the others are compared on.
        setting: how it is timed; None times nothing.
        say: told what is measured next.

    Raises:
        InputError: the file can't be quantised or run.
    """
    calibrating, comparing = _halves(inputs)
    to_int8(path, calibrating, out)
    found = compare_files(path, out, comparing)
    measured: Sequence[Measurement] = ()
    notes: tuple[str, ...] = ()
    if setting is not None:
        taken = measure_files((path, out), inputs, setting, say)
        measured, notes = taken.measurements, taken.notes
    return Int8(
        # JSON has no word for infinity: outputs that don't vary can't be told apart by their spread.
        error_of_spread=found.error_of_spread if math.isfinite(found.error_of_spread) else None,
        same_largest=found.same_largest,
        compared=found.inputs,
        calibrated=min(len(x) for x in calibrating if x.dim()),
        measurements=tuple(measured),
        notes=notes,
    )


def _halves(inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    if min(len(x) for x in inputs if x.dim()) < LEAST:
        return inputs, inputs
    first, second = (tuple(x[start::2] if x.dim() else x for x in inputs) for start in (0, 1))
    return first, second
