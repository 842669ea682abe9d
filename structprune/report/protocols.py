"""What the exporters do for the workflows, so that the core needs neither ONNX nor a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from structprune.report.data import Int8, Measurement, MeasurementName, Proof

if TYPE_CHECKING:
    from torch import Tensor, nn

Say = Callable[[str], None]


class Measured(Protocol):
    """What measuring gives back."""

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """In the order in which they were taken."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be measured, and why."""


class Meter(Protocol):
    """Energy that was spent, or None where it can't be told; and how it was taken, or why it wasn't."""

    joules: float | None
    how: str


class Tools(Protocol):
    """What the package ``exporters`` does for the pipeline."""

    def export(self, model: nn.Module, example: tuple[Tensor, ...], path: Path) -> Any:
        """Write an ONNX file; what comes back tells ``exporter``, ``opset`` and ``fallback``."""

    def check(self, model: nn.Module, path: Path, inputs: tuple[Tensor, ...], written: Any = None) -> Proof:
        """Compare a module with its ONNX file, given what ``export`` told of it."""

    def count_flops(self, model: nn.Module, example: tuple[Tensor, ...]) -> int:
        """Count the multiply-adds of one input."""

    def metered(self) -> AbstractContextManager[Meter]:
        """Take the energy of what happens inside."""

    def measure(
        self,
        dense: nn.Module,
        pruned: nn.Module,
        example: tuple[Tensor, ...],
        files: tuple[Path, Path],
        say: Say,
    ) -> Measured:
        """Measure both networks, given as modules and as ONNX files."""

    def compare(
        self, name: MeasurementName, files: Sequence[Path], example: tuple[Tensor, ...], seconds: float
    ) -> Sequence[Measurement]:
        """Take the batch time, memory or disk of ONNX files, each held against the first, itself included."""

    def quantise(self, path: Path, out: Path, inputs: tuple[Tensor, ...], measure: bool, say: Say) -> Int8:
        """Write an int8 form of an ONNX file, compare the two and, where asked, time them."""

    def as_module(self, path: Path) -> nn.Module:
        """Return an ONNX file as a module that can be judged."""

    def break_even(self, spent_joules: float, dense_joules: float, pruned_joules: float) -> float | None:
        """Return after how many inferences the energy spent is earned back."""
