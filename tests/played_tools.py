"""What ``exporters`` and a judge do for the pipeline, with answers that are known in advance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from structprune.report.data import Int8, Measurement, MeasurementName, Proof, Series
from structprune.report.protocols import Say

ENERGY = Measurement(
    "energy", "onnxruntime", 1, 1, "J", Series(50.0, (50.0,)), Series(20.0, (20.0,)), None, "per 1,000"
)
CHECKED = Proof("onnx", True, 1e-7, 1e-4, 1e-5, 1e-2, 0.4, "played")


@dataclass
class PlayedTools:
    """What ``exporters`` does, with answers that are known; it notes what it is asked."""

    checked: Proof = CHECKED
    fallback: str | None = None
    asked: list[str] = field(default_factory=list)
    exported: list[Path] = field(default_factory=list)

    def export(self, model: nn.Module, example: tuple[Tensor, ...], path: Path) -> Any:
        path.write_bytes(b"played")
        self.asked.append("export")
        self.exported.append(path)
        return SimpleNamespace(exporter="legacy", opset=17, fallback=self.fallback)

    def check(self, model: nn.Module, path: Path, inputs: tuple[Tensor, ...], written: Any = None) -> Proof:
        assert path.exists()
        self.asked.append("check")
        return self.checked

    def count_flops(self, model: nn.Module, example: tuple[Tensor, ...]) -> int:
        """Of a network of linear layers: their weights."""
        assert [len(x) for x in example] == [1]
        return sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))

    @contextmanager
    def metered(self) -> Iterator[Any]:
        meter = SimpleNamespace(joules=0.0)
        self.asked.append("meter on")
        yield meter
        meter.joules = 300.0
        self.asked.append("meter off")

    def measure(
        self,
        dense: nn.Module,
        pruned: nn.Module,
        example: tuple[Tensor, ...],
        files: tuple[Path, Path],
        say: Say,
    ) -> Any:
        assert all(path.exists() for path in files)
        self.asked.append("measure")
        say("energy")
        return SimpleNamespace(measurements=(ENERGY,), notes=("memory was not measured",))

    def compare(
        self, name: MeasurementName, files: Sequence[Path], example: tuple[Tensor, ...], seconds: float
    ) -> Sequence[Measurement]:
        raise AssertionError("nobody asked for a limit")

    def quantise(self, path: Path, out: Path, inputs: tuple[Tensor, ...], measure: bool, say: Say) -> Int8:
        assert path.exists()
        out.write_bytes(b"played int8")
        self.asked.append("quantise")
        return Int8(0.1, 0.9, compared=4, calibrated=4, measurements=(ENERGY,) if measure else ())

    def as_module(self, path: Path) -> nn.Module:
        self.asked.append(f"judge {path.name}")
        return nn.Identity()

    def break_even(self, spent_joules: float, dense_joules: float, pruned_joules: float) -> float | None:
        return spent_joules / (dense_joules - pruned_joules)


@dataclass
class PlayedJudge:
    """Says one accuracy after the other, and notes of which network."""

    answers: tuple[float, ...] = (0.9, 0.5, 0.8)
    judged: list[nn.Module] = field(default_factory=list)

    def __call__(self, model: nn.Module) -> float:
        self.judged.append(model)
        return self.answers[len(self.judged) - 1]
