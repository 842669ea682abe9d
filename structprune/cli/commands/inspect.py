"""``structprune inspect``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from structprune.cli import console as shell
from structprune.cli import options as o
from structprune.cli.checks import check
from structprune.cli.panels import flat, takes_options


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """All that ``inspect`` is told."""

    network: o.NetworkOptions
    align: Annotated[
        int, typer.Option(help="Widths become multiples of it, or stay.", rich_help_panel="Widths")
    ] = 1
    floor: o.Floor = 0.02
    scope: o.ScopeOptions
    place: o.PlaceOptions
    shown: o.OutputOptions


@shell.guarded
@takes_options
def inspect(network: o.Spec, options: InspectCommand) -> None:
    """Show which channels leave together, what is protected and why, and how much can go. Needs no data."""
    check(flat(options))
    from structprune.cli.runs.gather import read, scope_of
    from structprune.cli.runs.inspect import estimates
    from structprune.proofs.trial_cut import cuttable_groups
    from structprune.pruning.budget import Budget, reachable
    from structprune.scoring.samples import inputs_like

    with shell.speaking(options.shown.quiet) as say:
        found = read(network, options.network, options.place, say)
        say("finding coupled channels")
        inputs = inputs_like(found.example, len(found.example[0]), options.place.seed)
        groups = cuttable_groups(found.model, found.example, inputs, scope_of(options.scope))
        budget = Budget(0.0, "nodes", options.floor, options.align)
        most = reachable(groups, budget)
        say("estimating what is left")
        sizes = estimates(found, groups, budget, most)
    if options.shown.json:
        shell.print_json(_document(found, groups, most, sizes))
    else:
        _show(found, groups, most, sizes)


def _document(found: Any, groups: Any, most: float, sizes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": found.source.name,
        "input_size": list(found.size),
        "nodes": groups.nodes,
        "reachable": [0.0, most],
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "divisor": group.divisor,
                "producers": [coupling.layer for coupling in group.producers],
                "consumers": [coupling.layer for coupling in group.consumers],
                "nodes": sum(group.costs),
            }
            for group in groups
        ],
        "protected": [{"layer": row.layer, "reason": row.reason} for row in groups.protected],
        "outputs": list(groups.outputs),
        "estimates": [asdict(size) for size in sizes],
        "notes": list(found.notes),
    }


def _show(found: Any, groups: Any, most: float, sizes: Any) -> None:
    from structprune.report import Table

    rows = tuple(
        (
            group.name,
            str(group.size),
            str(sum(group.costs)),
            str(group.divisor),
            ", ".join(coupling.layer for coupling in group.producers),
            ", ".join(coupling.layer for coupling in group.consumers),
        )
        for group in groups
    )
    head = ("group", "channels", "nodes", "in steps of", "written by", "read by")
    shell.print_table(Table(f"{found.source.name}: {len(rows)} groups of coupled channels", head, rows))
    protected = tuple((row.layer, row.reason) for row in groups.protected)
    shell.print_table(Table("Not cut", ("layer", "reason"), protected))
    estimated = tuple(
        (
            f"{size.nodes:.3f}",
            f"{size.parameters:,}",
            "" if size.flops is None else f"{size.flops:,}",
            f"{size.disk / 1e6:.2f}",
        )
        for size in sizes
    )
    units = ("--nodes", "parameters", "multiply-adds", "MB on disk")
    shell.print_table(Table("What would be left, the same share of every group", units, estimated))
    shell.print_line(f"{groups.nodes:,} nodes; --nodes 0 to {int(most * 1000) / 1000:.3f} can be reached.")
    for note in found.notes:
        shell.print_line(f"Note: {note}.")
