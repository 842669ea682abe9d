"""``structprune measure``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from structprune.choices import listed
from structprune.cli import console as shell
from structprune.cli import options as o
from structprune.cli.checks import check
from structprune.cli.panels import flat, takes_options


@dataclass(frozen=True, kw_only=True)
class MeasureCommand:
    """All that ``measure`` is told."""

    network: o.NetworkOptions
    runtime: Annotated[
        list[str],
        typer.Option(
            help=f"What runs them while they are timed: {listed('runtime')}; may be repeated.",
            rich_help_panel="Measuring",
        ),
    ] = field(default_factory=lambda: ["torch", "onnxruntime"])
    measure_batch: o.Batches = field(default_factory=lambda: [1, 8, 32])
    threads: Annotated[
        list[int],
        typer.Option(help="CPU threads inside an operator; may be repeated.", rich_help_panel="Measuring"),
    ] = field(default_factory=lambda: [1])
    layers: Annotated[
        bool,
        o.flag(
            "--layers",
            help="Also the time of each layer, and which did not get faster.",
            rich_help_panel="Measuring",
        ),
    ] = False
    energy_seconds: o.Seconds = 5.0
    country: o.Country = None
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure only if this machine is the one of the profile.",
            rich_help_panel="Measuring",
        ),
    ] = None
    place: o.PlaceOptions
    shown: o.OutputOptions


@shell.guarded
@takes_options
def measure(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="One network or several, or .onnx files; the first is the reference."
        ),
    ],
    options: MeasureCommand,
) -> None:
    """Measure batch time, memory, disk, multiply-adds, energy and carbon of networks side by side."""
    check(flat(options))
    from structprune.cli.runs import measure as measuring

    with shell.speaking(options.shown.quiet) as say:
        names, measured = measuring.run(networks, options, say)
    if options.shown.json:
        shell.print_json(measuring.document(names, measured))
        return
    for table in measuring.tables(names, measured):
        shell.print_table(table)
    for sentence in measuring.sentences(names, measured):
        shell.print_line(sentence)
