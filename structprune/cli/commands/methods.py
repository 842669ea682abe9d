"""``structprune methods``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from structprune.cli import console as shell
from structprune.cli import options as o

if TYPE_CHECKING:
    from structprune.training.methods import Method

SCHEDULES = {
    "dense": "never",
    "before": "before training",
    "after": "after half of the training",
    "early": "early in training",
    "rewind": "after training, rewound, in rounds",
    "tick tock": "after a third of the training, in ticks",
}
"""How the schedules of methods are said."""


@shell.guarded
def methods(json: o.Json = False, debug: o.Debug = False) -> None:
    """List the methods, and the criteria that --score knows, those of plug-ins too."""
    from structprune.report import Table
    from structprune.scoring.criteria import CRITERIA
    from structprune.training import RECIPES
    from structprune.training.methods import METHODS

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
        (name, m.paper, m.gates, _score(m), _when(m), ", ".join(m.needs) or "-")
        for name, m in METHODS.items()
    )
    shell.print_table(Table("Methods", ("method", "from", "gates", "score", "when", "needs"), rows))
    shell.print_line(f"train --recipe takes {', '.join(RECIPES)}.")
    shell.print_line(f"--score takes {', '.join(CRITERIA)}, or several joined by '+'.")


def _score(method: Method) -> str:
    return method.score + (", the same rate in every group" if method.allocation == "uniform" else "")


def _when(method: Method) -> str:
    cuts = {"one shot": "", "exponential": f", {method.steps} cuts", "halving": f", {method.steps + 2} cuts"}
    detector = f", {method.detector}" if method.detector else ""
    return SCHEDULES[method.schedule] + detector + cuts[method.fractions]
