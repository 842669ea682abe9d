"""An int8 file beside the ONNX file: calibrated on what scored, judged, and measured without favour."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from structprune.errors import InputError
from structprune.report.data import Int8, Report
from structprune.report.protocols import Say, Tools
from structprune.scoring.samples import Samples
from structprune.workflows.outputs import Run, judged
from structprune.workflows.request import Judge, Request

FILE = "model.int8.onnx"
MOST = 256
"""Inputs at most, of which half calibrate and half are compared on."""


def with_int8(run: Run, request: Request, report: Report) -> Report:
    """Write ``model.int8.onnx`` where it was asked for, and add to the report what it is worth.

    A network that can't be quantised gets a note instead.
    """
    tools = run.tools
    if tools is None or not (request.int8 and request.export):
        return report
    path, out = run.folder / "model.onnx", run.folder / FILE
    try:
        with run.clock.step("int8", "quantising to int8"):
            found = quantised(
                tools, path, out, request.samples, request.judge, run.say, measure=request.measure
            )
    # What was cut and proven before is worth keeping.
    except InputError as error:
        out.unlink(missing_ok=True)
        return replace(report, notes=(*report.notes, f"there is no int8 file: {error}"))
    return replace(report, int8=found, notes=(*report.notes, *found.notes))


def quantised(
    tools: Tools, path: Path, out: Path, samples: Samples, judge: Judge | None, say: Say, *, measure: bool
) -> Int8:
    """Write an int8 form of an ONNX file and find out what it is worth.

    Args:
        tools: quantise and time.
        path: the float32 file.
        out: where the int8 file goes.
        samples: calibrate.
        judge: takes the accuracy of both files, or None without data.
        say: told what happens next.
        measure: whether to time both.

    Raises:
        InputError: the file can't be quantised.
    """
    found = tools.quantise(path, out, calibration(samples), measure, say)
    which = samples.how if samples.real else "random inputs, which are no substitute for data"
    found = replace(found, calibration=f"{found.calibrated} of {which}" if samples.real else which)
    if judge is None:
        return found
    say("taking the accuracy of the int8 file")
    before, after = (judged(judge, tools.as_module(each)) for each in (path, out))
    return replace(found, accuracy_before=before, accuracy=after)


def calibration(samples: Samples) -> tuple[Tensor, ...]:
    """Return the inputs that calibrate, in float32 on the CPU, each of shape [N, ...]."""
    columns = zip(*(batch.inputs for batch in samples.batches), strict=True)
    cut = (torch.cat(column)[:MOST].cpu() for column in columns)
    return tuple(x.float() if x.is_floating_point() else x for x in cut)
