"""``structprune export``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from structprune.cli import options as o
from structprune.cli import shell
from structprune.errors import OutputError


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
    from exporters.toolbox import Toolbox
    from structprune.choose import random_samples
    from structprune.cli.compressing import read
    from structprune.pipeline import export_proven
    from structprune.proofs import require

    with shell.speaking(quiet) as say:
        found = read(asked, say)
        path = output or Path(f"{found.source.name}.onnx")
        if path.exists() and not force:
            raise OutputError(f"{path.name} exists; choose another name or replace it with --force")
        samples = random_samples(found.model, found.example, 8, seed)
        say("exporting")
        tools = Toolbox(opset=opset, exporter=exporter, rtol=rtol)  # type: ignore[arg-type]
        notes: list[str] = []
        proof = export_proven(found.model, path, samples.batches[0].inputs, tools, notes)
        if not proof.passed:
            path.unlink(missing_ok=True)
        require([proof])
    if json:
        shell.print_json({"schema": 1, "file": path.name, "proof": asdict(proof), "notes": notes})
    else:
        figures = f"error {proof.error:.1e}, {proof.error_of_spread:.1e} of the spread"
        shell.console().print(f"{path}: proof onnx passed, {figures}; {proof.how}", markup=False)
