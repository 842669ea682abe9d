"""``structprune export``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from structprune.cli import options as o
from structprune.cli import shell
from structprune.cli.checks import check


@shell.guarded
def export(
    network: o.Network,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: NAME.onnx here.")
    ] = None,
    arch: o.Arch = None,
    pretrained: o.Pretrained = False,
    trust_pickle: o.TrustPickle = False,
    classes: o.Classes = None,
    input_size: o.InputSize = None,
    input: o.Input = None,
    opset: o.Opset = None,
    exporter: o.Exporter = "auto",
    rtol: o.Rtol = 1e-4,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Write a network as ONNX and prove that ONNX Runtime computes the same."""
    asked = dict(locals())
    check(asked)
    from structprune.cli.exporting import run

    with shell.speaking(quiet) as say:
        path, proof, notes = run(asked, say)
    if json:
        shell.print_json({"schema": 1, "file": path.name, "proof": asdict(proof), "notes": notes})
        return
    figures = f"error {proof.error:.1e}, {proof.error_of_spread:.1e} of the spread"
    shell.print_line(f"{path}: proof onnx passed, {figures}; {proof.how}.")
    for note in notes:
        shell.print_line(f"Note: {note}.")
