"""``structprune score``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from structprune.cli import console as shell
from structprune.cli import options as o
from structprune.cli.checks import check
from structprune.cli.panels import flat, takes_options


@dataclass(frozen=True, kw_only=True)
class ScoreCommand:
    """All that ``score`` is told."""

    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the scores to a .json file."),
    ] = None
    network: o.NetworkOptions
    data: o.DataOptions
    scoring: o.ScoreOptions
    scope: o.ScopeOptions
    place: o.PlaceOptions
    force: o.Force = False
    shown: o.OutputOptions


@shell.guarded
@takes_options
def score(network: o.Spec, options: ScoreCommand) -> None:
    """Score every channel: to a file, and as a picture in the terminal."""
    check(flat(options))
    from structprune.cli.runs import score as scoring

    with shell.speaking(options.shown.quiet) as say:
        document = scoring.run(network, options, say)
    if options.output is not None:
        shell.written()
    if options.shown.json:
        shell.print_json(document)
        return
    scoring.show(document)
    if options.output is not None:
        shell.print_line(f"Written to {options.output}")
