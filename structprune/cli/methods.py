"""``structprune methods``."""

from __future__ import annotations

from dataclasses import asdict

from structprune.cli import options as o
from structprune.cli import shell


@shell.guarded
def methods(json: o.Json = False, debug: o.Debug = False) -> None:
    """List the methods, and the criteria that --score knows, those of plug-ins too."""
    from structprune.criteria import CRITERIA
    from structprune.methods import METHODS
    from structprune.render import Table

    if json:
        shell.print_json(
            {
                "schema": 1,
                "methods": {name: asdict(method) for name, method in METHODS.items()},
                "criteria": list(CRITERIA),
            }
        )
        return
    rows = tuple(
        (name, m.paper, m.gates, m.score, m.schedule, ", ".join(m.needs) or "-")
        for name, m in METHODS.items()
    )
    shell.print_table(Table("Methods", ("method", "from", "gates", "score", "schedule", "needs"), rows))
    shell.print_line(f"--score takes {', '.join(CRITERIA)}, or several joined by '+'.")
