"""What ``export`` does once torch may be imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from exporters.toolbox import Toolbox
from structprune.cli.commands.export import ExportCommand
from structprune.cli.output_file import check_file, staged_file
from structprune.cli.runs import network as inputs
from structprune.cli.runs.gather import Say, read, stem
from structprune.data import ImageSet
from structprune.errors import UsageError
from structprune.proofs.verdict import require
from structprune.report import Table, int8_line, int8_rows
from structprune.report.data import Int8, Proof
from structprune.scoring.samples import random_samples
from structprune.workflows.int8 import MOST, quantised
from structprune.workflows.outputs import PROOF_INPUTS, export_proven


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: where it is.
        proof: of the float32 file.
        notes: what a reader must know.
        int8: what the int8 file is worth, or None where float32 was asked for.
    """

    path: Path
    proof: Proof
    notes: tuple[str, ...]
    int8: Int8 | None

    @property
    def document(self) -> dict[str, Any]:
        """All of it, for JSON."""
        int8 = {} if self.int8 is None else {"int8": asdict(self.int8)}
        return {
            "schema": 1,
            "file": self.path.name,
            "proof": asdict(self.proof),
            "notes": list(self.notes),
            **int8,
        }

    @property
    def tables(self) -> list[Table]:
        """The int8 file beside the float32 one, where there is one."""
        return [int8_rows(self.int8)] if self.int8 is not None else []

    @property
    def sentences(self) -> Iterator[str]:
        """The proof, what int8 is worth, and the notes."""
        figures = f"error {self.proof.error:.1e}, {self.proof.error_of_spread:.1e} of the spread"
        which = "" if self.int8 is None else " of the float32 file"
        yield f"{self.path}: proof onnx{which} passed, {figures}; {self.proof.how}."
        if self.int8 is not None:
            yield int8_line(self.int8)
        yield from (f"Note: {note}." for note in self.notes)


def run(spec: str, options: ExportCommand, say: Say) -> Exported:
    """Write a proven ONNX file as the options ask, or an int8 form of one."""
    data, int8 = options.data, options.int8
    if data.data and not int8:
        raise UsageError("--data calibrates int8; give --int8, or leave --data out")
    path = options.output or Path(f"{stem(spec)}{'.int8' if int8 else ''}.onnx")
    check_file(path, options.force)
    learn, test = inputs.read_data(data.data, data.test_data) if data.data else (None, None)
    network = read(spec, options.network, options.place, say, learn)
    with staged_file(path) as draft, TemporaryDirectory(prefix="structprune-") as scratch:
        float32 = Path(scratch, "model.onnx") if int8 else draft
        proof, about_file = _proven(options, network, float32, say)
        notes = (*network.notes, *about_file)
        if not int8:
            return Exported(path, proof, notes, None)
        seed = options.place.seed
        images = _images(options, network, learn, test)
        samples = inputs.samples_for(network, images, MOST, seed)
        judge = inputs.judge(images) if images else None
        worth = quantised(_tools(options), float32, draft, samples, judge, say, measure=True)
    about_images = images.notes if images else ()
    return Exported(path, proof, (*notes, *about_images, *worth.notes), worth)


def _images(
    options: ExportCommand, network: inputs.Network, learn: ImageSet | None, test: ImageSet | None
) -> inputs.Images | None:
    if learn is None:
        return None
    return inputs.prepare(
        learn,
        test,
        network,
        mean=options.data.mean,
        std=options.data.std,
        samples=MOST,
        batch_size=128,
        seed=options.place.seed,
    )


def _proven(
    options: ExportCommand, network: inputs.Network, path: Path, say: Say
) -> tuple[Proof, tuple[str, ...]]:
    samples = random_samples(network.model, network.example, PROOF_INPUTS, options.place.seed)
    say("exporting")
    proof, notes = export_proven(network.model, path, samples.batches[0].inputs, _tools(options))
    require([proof])
    return proof, notes


def _tools(options: ExportCommand) -> Toolbox:
    return Toolbox(
        opset=options.form.opset,
        exporter=options.form.exporter,  # type: ignore[arg-type]  # checked by the parser's rules
        rtol=options.rtol,
        batches=tuple(options.measure_batch),
        threads=options.threads,
    )
