"""``structprune profile``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from structprune.cli import console as shell
from structprune.cli import options as o
from structprune.cli.checks import check
from structprune.cli.panels import flat, takes_options


@dataclass(frozen=True, kw_only=True)
class ProfileCommand:
    """All that ``profile`` is told."""

    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A profile to show; without one, a new one.")
    ] = None
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where a new one goes. Default: it is shown."),
    ] = None
    name: Annotated[str, typer.Option(help="What to call it. Default: made of the device.")] = ""
    precision: Annotated[str, typer.Option(help="float32 or float16.")] = "float32"
    threads: Annotated[int, typer.Option(help="CPU threads inside an operator.")] = 1
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:0.")] = "cpu"
    force: Annotated[bool, o.flag("--force", help="Replace a file that is already there.")] = False
    shown: o.OutputOptions


@shell.guarded
@takes_options
def profile(options: ProfileCommand) -> None:
    """Measure which widths ONNX Runtime likes on this machine, for --align auto here or elsewhere."""
    check({**flat(options), "precision": None})
    from structprune.cli.runs.profile import run, tables, words

    with shell.speaking(options.shown.quiet) as say:
        found = run(options, say)
    if options.output is not None:
        shell.written()
    if options.shown.json:
        shell.print_json(asdict(found))
        return
    for table in tables(found):
        shell.print_table(table)
    shell.print_line(words(found))
    if options.output is not None:
        shell.print_line(f"Written to {options.output}")
