"""An int8 file beside the float32 one: written, compared and timed, whatever comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from exporters.measure import Measured, Setting, noted
from exporters.probes.batch_time import batch_times
from exporters.probes.disk import disk
from exporters.probes.readings import against_first
from exporters.runtime.networks import Network
from exporters.to_int8 import compare_files, to_int8
from structprune.report.data import Int8, Measurement

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
        taken = _timed((path, out), inputs, setting, say)
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


def _timed(
    files: Sequence[Path],
    example: tuple[Tensor, ...],
    setting: Setting,
    say: Callable[[str], None],
) -> Measured:
    """Size two ONNX files and time them in ONNX Runtime on the CPU, in turn; the second against the first."""
    networks = [Network(None, path) for path in files]
    found, notes = list(disk(networks)), list[str]()
    for batch in setting.batches:
        name = f"batch time of int8 (onnxruntime, batch {batch})"
        say(name)
        with noted(name, notes):
            found.append(batch_times(files, example, batch=batch, threads=setting.threads[0]))
    return Measured(tuple(against_first(readings, 1) for readings in found), tuple(notes))
