"""``structprune profile``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from structprune.cli import options as o
from structprune.cli import shell
from structprune.cli.checks import check


@shell.guarded
def profile(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A profile to show; without one, a new one.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where a new one goes. Default: it is shown."),
    ] = None,
    name: Annotated[str, typer.Option(help="What to call it. Default: made of the device.")] = "",
    precision: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(help="CPU threads inside an operator.")] = 1,
    device: o.Device = "cpu",
    force: Annotated[bool, o.flag("--force", help="Replace a file that is already there.")] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Measure which widths ONNX Runtime likes on this machine, for --align auto here or elsewhere."""
    asked = dict(locals())
    check({**asked, "precision": None})
    from dataclasses import asdict

    from structprune.cli.profiling import run, tables, words

    with shell.speaking(quiet) as say:
        found = run(asked, say)
    if output is not None:
        shell.written()
    if json:
        shell.print_json(asdict(found))
        return
    for table in tables(found):
        shell.print_table(table)
    shell.print_line(words(found))
    if output is not None:
        shell.print_line(f"Written to {output}")
