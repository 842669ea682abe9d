"""The exporters, with what a user asked of them."""

from __future__ import annotations

from exporters.toolbox import Toolbox
from structprune.cli.options import MeasureOptions, OnnxOptions


def toolbox(onnx: OnnxOptions, measuring: MeasureOptions, device: str) -> Toolbox:
    """What exports, proves and measures."""
    return Toolbox(
        opset=onnx.form.opset,
        exporter=onnx.form.exporter,  # type: ignore[arg-type]  # checked by the parser's rules
        rtol=onnx.rtol,
        device=device,
        batches=tuple(measuring.measure_batch),
        threads=measuring.threads,
        seconds=measuring.energy_seconds,
        country=measuring.country,
    )
