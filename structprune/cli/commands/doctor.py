"""``structprune doctor``."""

from __future__ import annotations

from structprune.cli import console as shell
from structprune.cli import options as o


@shell.guarded
def doctor(json: o.Json = False, debug: o.Debug = False) -> None:
    """Say what this machine can do: torch, CUDA, ONNX Runtime by a run, energy, channel block of the CPU."""
    from exporters.diagnosis import diagnose
    from structprune.report import Table

    findings = diagnose()
    if json:
        shell.print_json({"schema": 1, "findings": findings})
    else:
        shell.print_table(Table("This machine", ("", "found"), tuple(findings.items())))
