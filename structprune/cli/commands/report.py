"""``structprune report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from structprune.cli import console as shell
from structprune.cli import options as o
from structprune.errors import InputError, ProofFailedError


@shell.guarded
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A result folder, or a report.json.")],
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show the report of a result folder again; one with a proof that failed ends in exit code 4."""
    from structprune.files import read_text
    from structprune.report.serialise import from_json, to_json

    path = folder / "report.json" if folder.is_dir() else folder
    try:
        found = from_json(read_text(path))
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there; give a result folder of structprune compress") from error
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {error}") from error
    if json:
        shell.print_text(to_json(found))
    else:
        from structprune.cli.runs.show import WHOLE, show

        show(found, WHOLE)
    for proof in found.proofs:
        if proof.passed is not True:
            raise ProofFailedError(f"{path} says that the proof {proof.name} failed: {proof.how}")
