"""From limits in the units that people pay in to the least cut along one ranking that keeps them all.

What is counted is met exactly. What is measured (time, memory) is taken from exported files, times in turn
with the dense network's, and met within 2 %: few exports, each chosen by what was measured before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from structprune.budget import Pick, Plan, select
from structprune.channels import ChannelGroups
from structprune.choose import Choice, check_groups, choose
from structprune.delivery import Run
from structprune.errors import UsageError
from structprune.limited.bench import Bench
from structprune.limited.counting import check_counted
from structprune.limited.finding import least_depth
from structprune.limited.telling import met
from structprune.limits import Limit, nodes_of
from structprune.ranking import Ranking
from structprune.report import Met
from structprune.request import Request, Tools
from structprune.scores import Scores

__all__ = ["within_limits"]


def within_limits(
    run: Run, request: Request, groups: ChannelGroups, pick: Pick | None = None
) -> tuple[Choice, tuple[Met, ...]]:
    """The least cut that keeps every limit of a request, in one shot or in steps.

    Args:
        run: its surroundings.
        request: with its limits.
        groups: the groups of its network.
        pick: chooses the channels that stay; by default :func:`structprune.budget.select`.

    Returns:
        The choice, and what was reached of each limit; of nodes alone the plan says it.

    Raises:
        TargetUnreachableError: the deepest cut that is allowed doesn't keep them.
        UsageError: a limit can't be told from the tools at hand.
    """
    _check(run.tools, request.limits)
    check_groups(groups)
    check_counted(_ranking(run, request, groups, _flat(groups)), request.limits)
    nodes_alone = [limit.name for limit in request.limits] == ["nodes"]
    reached: list[tuple[Met, ...]] = []

    def along(scores: Scores) -> Plan:
        ranking = _ranking(run, request, groups, scores, pick or select)
        plan, met_by_it = _least_cut(run, request, ranking)
        reached.append(met_by_it)
        return plan

    with run.clock.step("score"):
        choice = choose(
            request.model,
            groups,
            request.samples,
            request.scoring,
            request.budget(nodes_of(request.limits) or 0.0),
            run.say,
            request.correction,
            pick,
            None if nodes_alone else along,
        )
    if not nodes_alone and not choice.plan.reached:
        note = "the dense network keeps every limit already, and nothing was cut"
        choice = replace(choice, notes=(note, *choice.notes))
    return choice, reached[-1] if reached else ()


def _least_cut(run: Run, request: Request, ranking: Ranking) -> tuple[Plan, tuple[Met, ...]]:
    """The least cut along a ranking that keeps every limit, and what it reaches of each."""
    limits = request.limits
    words = "looking for the least cut that keeps every limit"
    with run.clock.step("search", words), TemporaryDirectory(prefix="structprune-") as scratch:
        bench = Bench(run, ranking, Path(scratch))
        depth = least_depth(bench, limits)
        reached = tuple(met(bench, limit, depth) for limit in limits)
        plan = ranking.plan(depth)
    remove = max(nodes_of(limits) or 0.0, plan.reached)
    return replace(plan, budget=request.budget(remove)), reached


def _check(tools: Tools | None, limits: Sequence[Limit]) -> None:
    exported = [limit.name for limit in limits if limit.measured or limit.name == "disk"]
    if tools is None and exported:
        raise UsageError(f"{', '.join(exported)}: nothing is there that exports and measures")


def _flat(groups: ChannelGroups) -> Scores:
    return Scores({group.name: torch.zeros(group.size) for group in groups}, "none")


def _ranking(
    run: Run, request: Request, groups: ChannelGroups, scores: Scores, pick: Pick = select
) -> Ranking:
    needed = any(limit.measured or limit.name == "flops" for limit in request.limits)
    count = run.tools.count_flops if run.tools and needed else None
    return Ranking(request.model, groups, scores.values, request.budget(), request.example, count, pick)
