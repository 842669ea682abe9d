"""Everything that ``structprune`` asks of this package, behind one object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from exporters.check_onnx import check_onnx
from exporters.int8 import quantised
from exporters.measure import Measured, Setting, measure
from exporters.onnx_settings import SCALES, next_batch
from exporters.probes.batch_time import batch_times
from exporters.probes.disk import onnx_sizes
from exporters.probes.emissions import Meter, break_even, metered
from exporters.probes.flops import count_flops
from exporters.probes.memory import resident_sets
from exporters.probes.readings import Readings, against_first
from exporters.to_int8 import OnnxModule
from exporters.to_onnx import OnnxExport, to_onnx
from structprune.choices import Exporter
from structprune.report.data import Int8, Measurement, MeasurementName, Proof


@dataclass(frozen=True)
class Toolbox:
    """Export, check and measure, with the options that a user has set once.

    Attributes:
        opset: version of ONNX's operator set, or None for the exporter's default.
        exporter: which exporter writes.
        rtol: bound of the ONNX proof on max|a - b| / max|b|.
        device: where batch times and memory are taken.
        batches: batch sizes to time.
        threads: CPU threads inside an operator.
        seconds: time in which energy is taken, for each network.
        country: three-letter ISO code of the electricity used, or None.
    """

    opset: int | None = None
    exporter: Exporter = "auto"
    rtol: float = 1e-4
    device: str = "cpu"
    batches: Sequence[int] = (1, 8)
    threads: int = 1
    seconds: float = 5.0
    country: str | None = None

    def export(self, model: nn.Module, example: tuple[Tensor, ...], path: Path) -> OnnxExport:
        """Write an ONNX file."""
        return to_onnx(model, example, path, opset=self.opset, exporter=self.exporter)

    def check(
        self,
        model: nn.Module,
        path: Path,
        inputs: tuple[Tensor, ...],
        written: OnnxExport | None = None,
    ) -> Proof:
        """Compare a module with its ONNX file.

        Control flow that a trace has fixed fails, whatever the comparison says, unless tracing was asked for
        by name: then the file is compared on the inputs as they are, and the proof says so.

        Args:
            model: the module.
            path: its file.
            inputs: what to compare them on.
            written: what ``export`` said of the file, or None where another wrote it.
        """
        if written is None:
            return check_onnx(model, path, inputs, rtol=self.rtol)
        wanted = self.exporter == "legacy"
        proof = check_onnx(
            model,
            path,
            inputs,
            scales=() if written.fixed and wanted else SCALES,
            large=next_batch(written.most),
            whole=written.whole,
            rtol=self.rtol,
        )
        if not written.fixed:
            return proof
        reads = f"{', '.join(written.fixed)} on values of the inputs"
        advice = "" if wanted else "; ask for the legacy exporter by name to have it so"
        how = f"{proof.how}; control flow fixed to what the example takes ({reads}){advice}"
        return replace(proof, passed=proof.passed and wanted, how=how)

    def count_flops(self, model: nn.Module, example: tuple[Tensor, ...]) -> int:
        """Count the multiply-adds of one input."""
        return count_flops(model, example)

    def metered(self) -> AbstractContextManager[Meter]:
        """Take the energy of what happens inside."""
        return metered(self.country)

    def measure(
        self,
        dense: nn.Module,
        pruned: nn.Module,
        example: tuple[Tensor, ...],
        files: tuple[Path, Path],
        say: Callable[[str], None],
    ) -> Measured:
        """Measure both networks, given as modules and as ONNX files."""
        return measure(
            dense,
            pruned,
            example,
            dense_onnx=files[0],
            pruned_onnx=files[1],
            device=self.device,
            batches=self.batches,
            threads=self.threads,
            seconds=self.seconds,
            country=self.country,
            progress=say,
        )

    def compare(
        self, name: MeasurementName, files: Sequence[Path], example: tuple[Tensor, ...], seconds: float
    ) -> tuple[Measurement, ...]:
        """Take one quantity of ONNX files on the CPU, each held against the first, itself included.

        Args:
            name: ``batch_time``, ``memory`` or ``disk``.
            files: the files.
            example: their positional inputs.
            seconds: time to spend on each where time is taken.
        """
        batch = self.batches[0]
        probes: dict[str, Callable[[], Readings]] = {
            "batch_time": lambda: batch_times(
                files, example, batch=batch, threads=self.threads, seconds=seconds
            ),
            "memory": lambda: resident_sets(files, example, batch=batch, threads=self.threads),
            "disk": lambda: onnx_sizes(files),
        }
        readings = probes[name]()
        return tuple(against_first(readings, index) for index in range(len(files)))

    def quantise(
        self, path: Path, out: Path, inputs: tuple[Tensor, ...], measure: bool, say: Callable[[str], None]
    ) -> Int8:
        """Write an int8 form of an ONNX file, compare the two and, where asked, time them."""
        setting = Setting(batches=self.batches, threads=(self.threads,)) if measure else None
        return quantised(path, out, inputs, setting, say)

    def as_module(self, path: Path) -> nn.Module:
        """Return an ONNX file as a module that can be judged."""
        return OnnxModule(path)

    def break_even(self, spent_joules: float, dense_joules: float, pruned_joules: float) -> float | None:
        """Return after how many inferences the energy spent is earned back."""
        return break_even(spent_joules, dense_joules, pruned_joules)
