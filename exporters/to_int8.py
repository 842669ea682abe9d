"""Static int8 quantisation of an ONNX file by ONNX Runtime, and what it changes in the outputs.

Weights per output channel as signed, activations per tensor as unsigned int8, in the QDQ form: the pair that
ONNX Runtime's kernels for x86 are fast on (resnet18 at 64 px: signed activations 1.2-1.4x, unsigned 9x).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from exporters.onnx_traces import strip_traces
from exporters.runtime.import_ort import load_onnxruntime
from exporters.runtime.providers import Session, feeds, first_line, open_session
from exporters.runtime.quiet import quiet
from structprune.errors import InputError

CHUNK = 16
"""Inputs a run of calibration, which keeps every activation of it."""


@dataclass(frozen=True)
class Agreement:
    """How far two files' outputs lie apart.

    Attributes:
        error_of_spread: max|a - b| / s, s the mean standard deviation of b over the inputs; the worst output.
        same_largest: share of the inputs whose largest output is the same one, or None where the first output
            is no (N, K).
        inputs: how many were compared.
    """

    error_of_spread: float
    same_largest: float | None
    inputs: int


def to_int8(path: Path, inputs: tuple[Tensor, ...], out: Path) -> None:
    """Write an int8 form of an ONNX file.

    Args:
        path: the float32 file.
        inputs: what it is calibrated on, each tensor of shape [N, ...]; the more real, the better.
        out: where the int8 file goes; it is replaced if it is there.

    Raises:
        InputError: the file can't be run on the inputs or can't be quantised.
    """
    session = open_session(path)
    chunks = [feeds(session, chunk) for chunk in _chunks(inputs)]
    with TemporaryDirectory(prefix="structprune-") as folder:
        try:
            with quiet():
                _quantise(_prepared(path, Path(folder, "prepared.onnx")), chunks, Path(folder, out.name))
            _tidied(Path(folder, out.name), out)
        except OSError:
            raise
        # The quantiser raises whatever the graph makes it stumble over.
        except Exception as error:
            raise InputError(
                f"ONNX Runtime can't quantise {path.name!r}: {first_line(error)}; leave int8 out"
            ) from error


def _chunks(inputs: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    count = min(len(x) for x in inputs if x.dim())
    for start in range(0, count, CHUNK):
        yield tuple(x[start : start + CHUNK] if x.dim() else x for x in inputs)


def _prepared(path: Path, out: Path) -> Path:
    """Infer shapes and fold what can be folded; a file that this can't cope with is quantised as it is."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        quant_pre_process(path, out)
    # It raises plain exceptions, among others where symbolic shapes defeat it.
    except Exception:
        return path
    return out


def _quantise(path: Path, chunks: list[dict[str, npt.NDArray[Any]]], out: Path) -> None:
    load_onnxruntime()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        path,
        out,
        _Reader(chunks),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


class _Reader:
    """Hands out inputs one after the other, in the form that ONNX Runtime's quantiser asks for."""

    def __init__(self, chunks: list[dict[str, npt.NDArray[Any]]]) -> None:
        self._left = iter(chunks)

    def get_next(self) -> Mapping[str, npt.NDArray[Any]] | None:
        return next(self._left, None)

    __next__ = get_next


def _tidied(draft: Path, out: Path) -> None:
    import onnx

    proto = onnx.load(draft)
    strip_traces(proto)
    onnx.checker.check_model(proto)
    onnx.save(proto, out)


def compare_files(path: Path, other: Path, inputs: tuple[Tensor, ...]) -> Agreement:
    """Compare the outputs of a float32 file (b) and an int8 one (a) on the same inputs.

    Raises:
        InputError: a file can't be run on them.
    """
    b_outputs, a_outputs = (_outputs(open_session(each), inputs) for each in (path, other))
    worst = max(_of_spread(a, b) for a, b in zip(a_outputs, b_outputs, strict=True))
    a, b = a_outputs[0], b_outputs[0]
    same = float((a.argmax(1) == b.argmax(1)).mean()) if b.ndim == 2 and b.shape[1] > 1 else None
    return Agreement(worst, same, len(b))


def _outputs(session: Session, inputs: tuple[Tensor, ...]) -> list[npt.NDArray[Any]]:
    try:
        runs = [session.run(None, feeds(session, chunk)) for chunk in _chunks(inputs)]
    # ONNX Runtime's exceptions share no base below Exception.
    except Exception as error:
        raise InputError(
            f"an ONNX file can't be run on the inputs to compare: {first_line(error)}"
        ) from error
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def _of_spread(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    spread = float(b.std(axis=0).mean())
    apart = float(np.abs(a.astype(float) - b).max())
    return apart / spread if spread > 0 else (0.0 if apart == 0 else math.inf)


class OnnxModule(nn.Module):
    """An ONNX file as a module with one output, so that whatever judges modules can judge it.

    Args:
        path: the file; it runs on the CPU.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session = open_session(path)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the first output for inputs of shape [N, ...]."""
        return torch.from_numpy(self._session.run(None, feeds(self._session, inputs))[0])
