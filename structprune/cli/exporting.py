"""What ``export`` does once torch may be imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from exporters.toolbox import Toolbox
from structprune.cli import inputs
from structprune.cli.gathering import Asked, Say, read, stem
from structprune.cli.output_file import check_file, staged_file
from structprune.delivery import PROOF_INPUTS, export_proven
from structprune.errors import UsageError
from structprune.proofs import require
from structprune.quantised import MOST, quantised
from structprune.render import Table, int8_line, int8_rows
from structprune.report import Int8, Proof
from structprune.samples import random_samples


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
        found = {} if self.int8 is None else {"int8": asdict(self.int8)}
        return {
            "schema": 1,
            "file": self.path.name,
            "proof": asdict(self.proof),
            "notes": list(self.notes),
            **found,
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


def run(asked: Asked, say: Say) -> Exported:
    """Write a proven ONNX file as the options ask, or an int8 form of one."""
    if asked["data"] and not asked["int8"]:
        raise UsageError("--data calibrates int8; give --int8, or leave --data out")
    path = asked["output"] or Path(f"{stem(asked['network'])}{'.int8' if asked['int8'] else ''}.onnx")
    check_file(path, asked["force"])
    learn, test = inputs.read_data(asked["data"], asked["test_data"]) if asked["data"] else (None, None)
    network = read(asked, say, learn)
    with staged_file(path) as draft, TemporaryDirectory(prefix="structprune-") as scratch:
        float32 = Path(scratch, "model.onnx") if asked["int8"] else draft
        proof, about_file = _proven(asked, network, float32, say)
        notes = (*network.notes, *about_file)
        if not asked["int8"]:
            return Exported(path, proof, notes, None)
        images = None
        if learn is not None:
            chosen = {name: asked[name] for name in ("mean", "std", "seed")}
            images = inputs.prepare(learn, test, network, samples=MOST, batch_size=128, **chosen)
            notes = (*notes, *images.notes)
        samples = inputs.samples_for(network, images, MOST, asked["seed"])
        judge = inputs.judge(images) if images else None
        found = quantised(_tools(asked), float32, draft, samples, judge, say, measure=True)
    return Exported(path, proof, (*notes, *found.notes), found)


def _proven(asked: Asked, network: inputs.Network, path: Path, say: Say) -> tuple[Proof, tuple[str, ...]]:
    samples = random_samples(network.model, network.example, PROOF_INPUTS, asked["seed"])
    say("exporting")
    proof, notes = export_proven(network.model, path, samples.batches[0].inputs, _tools(asked))
    require([proof])
    return proof, notes


def _tools(asked: Asked) -> Toolbox:
    return Toolbox(
        opset=asked["opset"],
        exporter=asked["exporter"],
        rtol=asked["rtol"],
        batches=tuple(asked["measure_batch"]),
        threads=asked["threads"],
    )
