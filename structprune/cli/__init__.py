"""The command line: the only place that prints.

``structprune --help`` must answer at once, so nothing here or in the verbs' modules imports torch before a
verb runs.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from structprune._version import __version__
from structprune.cli import console as shell
from structprune.cli import signals
from structprune.cli.commands import (
    compress,
    doctor,
    export,
    inspect,
    measure,
    methods,
    pareto,
    profile,
    report,
    score,
    train,
)
from structprune.cli.options import flag
from structprune.errors import UsageError

app = typer.Typer(
    name="structprune",
    help="Make a network smaller and prove it: score its channels, remove the worst, export, measure.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"structprune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, flag("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("compress")(compress.compress)
app.command("pareto")(pareto.pareto)
app.command("inspect")(inspect.inspect)
app.command("score")(score.score)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("measure")(measure.measure)
app.command("profile")(profile.profile)
app.command("report")(report.report)
app.command("methods")(methods.methods)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command line."""
    shell.prepare()
    arguments = sys.argv[1:]
    try:
        code = app(arguments or ["--help"], prog_name="structprune", standalone_mode=False)
    except shell.MISUSE as error:
        shell.fail(shell.misused(error), UsageError.exit_code)
    except typer.Abort as error:  # what the parser makes of Ctrl-C
        stop = signals.behind(error)
        if stop is None:
            raise
        shell.end_by(stop)
    except OSError as error:  # of what the parser prints by itself: verbs let none out
        shell.fail(f"standard output can't be written: {error.strerror or error}", 1)
    sys.exit(code if arguments else UsageError.exit_code)
