"""``structprune pareto``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from structprune.choices import listed
from structprune.cli import console as shell
from structprune.cli import options as o
from structprune.cli.checks import check
from structprune.cli.limit_options import WidthOptions
from structprune.cli.panels import flat, takes_options


@dataclass(frozen=True, kw_only=True)
class ParetoCommand:
    """All that ``pareto`` is told."""

    points: Annotated[int, typer.Option(help="Networks, the dense one and the deepest cut among them.")] = 8
    by: Annotated[str, typer.Option(help=f"What falls in even steps: {listed('by')}.")] = "nodes"
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Write pareto.json and pareto.svg there."),
    ] = None
    network: o.NetworkOptions
    data: o.DataOptions
    scoring: o.ScoreOptions
    scope: o.ScopeOptions
    widths: WidthOptions
    correction: o.CorrectionOptions
    form: o.ExporterOptions
    measure_batch: Annotated[
        int, typer.Option("--measure-batch", help="Inputs in a timed batch.", rich_help_panel="Measuring")
    ] = 1
    threads: o.Threads = 1
    place: o.PlaceOptions
    force: o.Force = False
    shown: o.OutputOptions


@shell.guarded
@takes_options
def pareto(network: o.Spec, options: ParetoCommand) -> None:
    """Cut at several depths along one ranking: what each keeps, costs and takes, as a table and a drawing."""
    check({**flat(options), "measure_batch": [options.measure_batch]})
    from structprune.cli.runs.pareto import run

    with shell.speaking(options.shown.quiet) as say:
        front = run(network, options, say)
    if options.output is not None:
        shell.written()
    if options.shown.json:
        shell.print_json(asdict(front))
        return
    from structprune.report import front_table

    shell.print_table(front_table(front))
    if front.accuracy_how:
        shell.print_line(f"Accuracy on {front.accuracy_how}.")
    for note in front.notes:
        shell.print_line(f"Note: {note}.")
    if options.output is not None:
        shell.print_line(f"Written to {options.output}: pareto.json, pareto.svg")
