"""``structprune inspect``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from structprune.cli import options as o
from structprune.cli import shell
from structprune.cli.checks import check


@shell.guarded
def inspect(
    network: o.Network,
    arch: o.Arch = None,
    pretrained: o.Pretrained = False,
    trust_pickle: o.TrustPickle = False,
    no_ema: o.NoEma = False,
    classes: o.Classes = None,
    input_size: o.InputSize = None,
    input: o.Input = None,
    align: o.Align = 1,
    floor: o.Floor = 0.02,
    skip: o.Skip = [],  # noqa: B006  typer copies it
    only: o.Only = [],  # noqa: B006
    cut_padded: o.CutPadded = False,
    embedding: o.Embedding = False,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Show which channels leave together, what is protected and why, and how much can go. Needs no data."""
    asked = dict(locals())
    check(asked)
    from structprune.budget import Budget, reachable
    from structprune.cli.gathering import read, scope_of
    from structprune.cli.inspecting import estimates
    from structprune.trial import cuttable_groups

    with shell.speaking(quiet) as say:
        found = read(asked, say)
        say("finding coupled channels")
        groups = cuttable_groups(found.model, found.example, found.example, scope_of(asked))
        most = reachable(groups, Budget(0.0, "nodes", floor, align))
        say("estimating what is left")
        sizes = estimates(found, groups, Budget(0.0, "nodes", floor, align), most)
    if json:
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
    from structprune.render import Table

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
