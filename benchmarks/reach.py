"""How much of a network can be cut: what its channel groups hold, and what a trial cut leaves of them."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.elsewhere import call
from structprune.channels import ChannelGroups, channel_groups
from structprune.cli.runs.network import read_network
from structprune.errors import StructpruneError
from structprune.proofs.trial_cut import TRIAL_INPUTS, verified_groups
from structprune.pruning.budget import Budget, reachable
from structprune.scoring.samples import random_like

SECONDS = 900
REASONS = 4


def reach(name: str) -> dict[str, Any]:
    """Trace a network and try its cuts, as ``compress`` does; one row.

    Returns:
        Its nodes, the shares of them in groups by the trace and after the trial, the highest share that can
        be removed, why the others stay, and the seconds of trace and trial; or why it is refused.
    """
    torch.manual_seed(0)
    network = read_network(name)
    model, example = network.model.eval(), network.example
    generator = torch.Generator().manual_seed(0)
    few = tuple(random_like(x, TRIAL_INPUTS, generator) for x in example)
    start = time.perf_counter()
    try:
        offered = channel_groups(model, example)
        traced = time.perf_counter()
        groups = verified_groups(model, offered, few)
    except StructpruneError as error:
        return {"refused": str(error), "seconds": round(time.perf_counter() - start, 1)}
    return {
        "nodes": groups.nodes,
        "offered": _share(offered),
        "in_groups": _share(groups),
        "highest": round(reachable(groups, Budget(0.0)), 4),
        "stay": _reasons(groups),
        "seconds": {"trace": round(traced - start, 1), "trial": round(time.perf_counter() - traced, 1)},
    }


def _share(groups: ChannelGroups) -> float:
    return round(sum(sum(group.costs) for group in groups) / max(groups.nodes, 1), 4)


def _reasons(groups: ChannelGroups) -> dict[str, int]:
    """Return why nodes stay -> how many, the most first."""
    nodes: Counter[str] = Counter()
    for row in groups.protected:
        nodes[row.reason] += groups.widths.get(row.layer, 0)
    return {reason: count for reason, count in nodes.most_common(REASONS) if count}


def reach_with(checkout: Path, name: str) -> dict[str, Any]:
    """Return the row of a network by the structprune of a checkout, in a process of its own."""
    try:
        row: dict[str, Any] = call(checkout, "benchmarks.reach:reach", name, seconds=SECONDS)
    except RuntimeError as error:
        return {"refused": str(error)}
    return row
