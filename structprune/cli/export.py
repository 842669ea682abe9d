"""``structprune export``."""

from __future__ import annotations

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
    no_ema: o.NoEma = False,
    classes: o.Classes = None,
    input_size: o.InputSize = None,
    input: o.Input = None,
    opset: o.Opset = None,
    exporter: o.Exporter = "auto",
    rtol: o.Rtol = 1e-4,
    int8: Annotated[
        bool, o.flag("--int8", help="Write int8, calibrated on --data, and time it against float32.")
    ] = False,
    data: o.Data = None,
    test_data: o.TestData = None,
    mean: o.Mean = None,
    std: o.Std = None,
    measure_batch: o.Batches = [1, 8],  # noqa: B006  typer copies it
    threads: o.Threads = 1,
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
        done = run(asked, say)
    shell.written()
    if json:
        shell.print_json(done.document)
        return
    for table in done.tables:
        shell.print_table(table)
    for sentence in done.sentences:
        shell.print_line(sentence)
