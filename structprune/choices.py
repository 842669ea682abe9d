"""Values that arguments may take, written once: for types, checks, messages and ``--help``. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Accumulate = Literal["total", "abs", "square"]
Allocation = Literal["global", "conserved", "uniform"]
BatchNormMode = Literal["fixed", "batch"]
CorrectionName = Literal["least-squares", "batch-norm", "none"]
Exporter = Literal["auto", "dynamo", "legacy"]
Labels = Literal["given", "drawn"]
LossName = Literal["cross-entropy", "mse", "bce"]
Precision = Literal["float32", "bfloat16"]
SweptBy = Literal["nodes", "weights", "params", "flops"]

CHOICES: Mapping[str, tuple[str, ...]] = {
    "accumulate": get_args(Accumulate),
    "allocation": get_args(Allocation),
    "batch_norm": get_args(BatchNormMode),
    "by": get_args(SweptBy),
    "correct": get_args(CorrectionName),
    "exporter": get_args(Exporter),
    "labels": get_args(Labels),
    "loss": get_args(LossName),
    "precision": get_args(Precision),
    "runtime": ("torch", "torch-compile", "onnxruntime"),
}
"""Argument -> its values."""


def listed(argument: str) -> str:
    """Values of an argument in a sentence.

    Example:
        >>> listed("accumulate")
        'total, abs or square'
    """
    *others, last = CHOICES[argument]
    return f"{', '.join(others)} or {last}"
