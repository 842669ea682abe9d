"""Result folders without a network in them."""

from __future__ import annotations

from structprune.models.results.plan_file import PlanFile, to_json
from structprune.report.data import Count, Report


def small_plan(name: str) -> str:
    """The plan of a network without layers."""
    nothing: dict[str, dict[str, int]] = {}
    return to_json(PlanFile(None, name, (3, 8, 8), 0.5, "nodes", 0.0, 1, 0.5, {}, nothing, nothing, {}, {}))


def small_report() -> Report:
    """The report of nothing."""
    none = Count(0, 0, 0.0)
    return Report("random", "none", 0, none, none, none, None, {}, (), 0, None, False, "", "", ())
