"""What ``export`` does once torch may be imported."""

from __future__ import annotations

from pathlib import Path

from exporters.toolbox import Toolbox
from structprune.cli.gathering import Asked, Say, read, stem
from structprune.cli.output_file import check_file, staged_file
from structprune.delivery import PROOF_INPUTS, export_proven
from structprune.proofs import require
from structprune.report import Proof
from structprune.samples import random_samples


def run(asked: Asked, say: Say) -> tuple[Path, Proof, list[str]]:
    """Write a proven ONNX file as the options ask.

    Returns:
        Where it is, its proof, and what a reader must know.
    """
    path = asked["output"] or Path(f"{stem(asked['network'])}.onnx")
    check_file(path, asked["force"])
    network = read(asked, say)
    samples = random_samples(network.model, network.example, PROOF_INPUTS, asked["seed"])
    tools = Toolbox(opset=asked["opset"], exporter=asked["exporter"], rtol=asked["rtol"])
    notes = list(network.notes)
    say("exporting")
    with staged_file(path) as draft:
        proof = export_proven(network.model, draft, samples.batches[0].inputs, tools, notes)
        require([proof])
    return path, proof, notes
