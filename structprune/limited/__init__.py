"""From limits in the units that people pay in to the least cut along one ranking that keeps them all.

What is counted is met exactly. What is measured (time, memory) is taken from exported files, times in turn
with the dense network's, and met within 2 %: few exports, each chosen by what was measured before.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from structprune.budget import Pick, Plan, select
from structprune.channels import ChannelGroups
from structprune.choose import check_groups, order
from structprune.delivery import Run
from structprune.errors import UsageError
from structprune.limited.bench import Bench
from structprune.limited.counting import check_counted
from structprune.limited.finding import least_depth
from structprune.limited.telling import met
from structprune.limits import nodes_asked
from structprune.ranking import Ranking
from structprune.report import Met
from structprune.scores import Scores

__all__ = ["within_limits"]


def within_limits(
    run: Run, groups: ChannelGroups, pick: Pick | None = None
) -> tuple[Plan, Scores, tuple[Met, ...]]:
    """Score once and find the least cut that keeps every limit.

    Args:
        run: with a request that has limits.
        groups: the groups of its network.
        pick: chooses the channels that stay; by default :func:`structprune.budget.select`.

    Returns:
        The plan, the scores, and what was reached of each limit.

    Raises:
        TargetUnreachableError: the deepest cut that is allowed doesn't keep them.
        UsageError: a limit can't be told from the tools or steps at hand.
    """
    request = run.request
    _check(run)
    check_groups(groups)
    check_counted(_ranking(run, groups, _flat(groups)), request.limits)
    with run.clock.step("score", "scoring"):
        scores = order(request.model, groups, request.samples, request.scoring)
    words = "looking for the least cut that keeps every limit"
    with run.clock.step("search", words), TemporaryDirectory(prefix="structprune-") as scratch:
        bench = Bench(run, _ranking(run, groups, scores, pick or select), Path(scratch))
        depth = least_depth(bench, request.limits)
        reached = tuple(met(bench, limit, depth) for limit in request.limits)
        plan = bench.ranking.plan(depth)
    if not plan.reached:
        run.notes.append("the dense network keeps every limit already, and nothing was cut")
    remove = max(nodes_asked(request.limits), plan.reached)
    return replace(plan, budget=replace(request.budget, remove=remove)), scores, reached


def _check(run: Run) -> None:
    exported = [x.name for x in run.request.limits if x.measured or x.name == "disk"]
    if run.request.scoring.steps > 1:
        raise UsageError("limits are met along one ranking, and --steps takes several; give --nodes alone")
    if run.tools is None and exported:
        raise UsageError(f"{', '.join(exported)}: nothing is there that exports and measures")


def _flat(groups: ChannelGroups) -> Scores:
    return Scores({group.name: torch.zeros(group.size) for group in groups}, "none")


def _ranking(run: Run, groups: ChannelGroups, scores: Scores, pick: Pick = select) -> Ranking:
    request = run.request
    needed = any(limit.measured or limit.name == "flops" for limit in request.limits)
    count = run.tools.count_flops if run.tools and needed else None
    return Ranking(request.model, groups, scores.values, request.budget, request.example, count, pick)
