"""``structprune export``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from structprune.cli import console as shell
from structprune.cli import options as o
from structprune.cli.checks import check
from structprune.cli.panels import flat, takes_options


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """All that ``export`` is told."""

    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: NAME.onnx here.")
    ] = None
    network: o.NetworkOptions
    form: o.ExporterOptions
    rtol: o.Rtol = 1e-4
    int8: Annotated[
        bool,
        o.flag(
            "--int8",
            help="Write int8, calibrated on --data, and time it against float32.",
            rich_help_panel="Export",
        ),
    ] = False
    data: o.DataOptions
    measure_batch: o.Batches = field(default_factory=lambda: [1, 8])
    threads: o.Threads = 1
    place: o.PlaceOptions
    force: o.Force = False
    shown: o.OutputOptions


@shell.guarded
@takes_options
def export(network: o.Spec, options: ExportCommand) -> None:
    """Write a network as ONNX and prove that ONNX Runtime computes the same."""
    check(flat(options))
    from structprune.cli.runs.export import run

    with shell.speaking(options.shown.quiet) as say:
        done = run(network, options, say)
    shell.written()
    if options.shown.json:
        shell.print_json(done.document)
        return
    for table in done.tables:
        shell.print_table(table)
    for sentence in done.sentences:
        shell.print_line(sentence)
