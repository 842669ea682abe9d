"""A compressed network's ONNX file, beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from exporters.to_onnx import OnnxExport, to_onnx

FILE_NAME = "model.onnx"


class Exportable(Protocol):
    """Anything that holds a network and its inputs, such as the result of ``structprune.compress``."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Its positional inputs, each of shape [B, ...]."""


def save_onnx(result: Exportable, folder: Path, *, opset: int | None = None) -> OnnxExport:
    """Write ``folder/model.onnx``.

    Args:
        result: holds the network and example inputs.
        folder: an existing folder.
        opset: version of ONNX's operator set; the exporter's default where None.

    Raises:
        InputError: the network can't be exported.
        OutputError: the file can't be written.
    """
    return to_onnx(result.model, result.example_inputs, folder / FILE_NAME, opset=opset)
