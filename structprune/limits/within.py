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

from structprune.channels import ChannelGroups
from structprune.errors import UsageError
from structprune.limits.counting import check_counted
from structprune.limits.explain import met
from structprune.limits.iterative import Choice, choose
from structprune.limits.measuring import MeasurementCache
from structprune.limits.parse import Limit, nodes_of
from structprune.limits.problem import Problem
from structprune.limits.ranking import Ranking
from structprune.limits.solve import least_depth
from structprune.pruning.budget import Pick, Plan, select
from structprune.report.clock import Clock
from structprune.report.data import LimitResult
from structprune.report.protocols import Tools
from structprune.scoring.score import check_groups
from structprune.scoring.scores import Scores

__all__ = ["within_limits"]


def within_limits(
    problem: Problem, groups: ChannelGroups, tools: Tools | None, clock: Clock, pick: Pick | None = None
) -> tuple[Choice, tuple[LimitResult, ...]]:
    """The least cut that keeps every limit of a problem, in one shot or in steps.

    Args:
        problem: a network with its limits.
        groups: the groups of its network.
        tools: what exports and measures; without them only what is counted can be limited.
        clock: takes the time of scoring and of searching, and says what happens next.
        pick: chooses the channels that stay; by default :func:`structprune.pruning.budget.select`.

    Returns:
        The choice, and what was reached of each limit; of nodes alone the plan says it.

    Raises:
        TargetUnreachableError: the deepest cut that is allowed doesn't keep them.
        UsageError: a limit can't be told from the tools at hand.
    """
    _check(tools, problem.limits)
    check_groups(groups)
    check_counted(_ranking(problem, groups, _flat(groups), tools), problem.limits)
    nodes_alone = [limit.name for limit in problem.limits] == ["nodes"]
    exported = any(limit.measured or limit.name == "disk" for limit in problem.limits)
    cuts: list[tuple[Plan, tuple[LimitResult, ...]]] = []

    def along(scores: Scores) -> Plan:
        if exported and 0 < len(cuts) < problem.scoring.steps - 1:
            cuts.append(cuts[-1])  # what has to be exported is looked for in the first step and the last
            return cuts[-1][0]
        ranking = _ranking(problem, groups, scores, tools, pick or select)
        cuts.append(_least_cut(problem, ranking, tools, clock))
        return cuts[-1][0]

    with clock.step("score"):
        choice = choose(
            problem.model,
            groups,
            problem.samples,
            problem.scoring,
            problem.budget(nodes_of(problem.limits) or 0.0),
            clock.say,
            problem.correction,
            pick,
            None if nodes_alone else along,
        )
    if not nodes_alone and not choice.plan.reached:
        note = "the dense network keeps every limit already, and nothing was cut"
        choice = replace(choice, notes=(note, *choice.notes))
    return choice, cuts[-1][1] if cuts else ()


def _least_cut(
    problem: Problem, ranking: Ranking, tools: Tools | None, clock: Clock
) -> tuple[Plan, tuple[LimitResult, ...]]:
    """The least cut along a ranking that keeps every limit, and what it reaches of each."""
    limits = problem.limits
    words = "looking for the least cut that keeps every limit"
    with clock.step("search", words), TemporaryDirectory(prefix="structprune-") as scratch:
        bench = MeasurementCache(ranking, tools, clock.say, Path(scratch))
        depth = least_depth(bench, limits)
        reached = tuple(met(bench, limit, depth) for limit in limits)
        plan = ranking.plan(depth)
    remove = max(nodes_of(limits) or 0.0, plan.reached)
    return replace(plan, budget=problem.budget(remove)), reached


def _check(tools: Tools | None, limits: Sequence[Limit]) -> None:
    exported = [limit.name for limit in limits if limit.measured or limit.name == "disk"]
    if tools is None and exported:
        raise UsageError(f"{', '.join(exported)}: nothing is there that exports and measures")


def _flat(groups: ChannelGroups) -> Scores:
    return Scores({group.name: torch.zeros(group.size) for group in groups}, "none")


def _ranking(
    problem: Problem, groups: ChannelGroups, scores: Scores, tools: Tools | None, pick: Pick = select
) -> Ranking:
    needed = any(limit.measured or limit.name == "flops" for limit in problem.limits)
    count = tools.count_flops if tools and needed else None
    return Ranking(problem.model, groups, scores.values, problem.budget(), problem.example, count, pick)
