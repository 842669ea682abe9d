"""Which channels go: score, select and cut, once or in steps, each of which scores what the last one left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups
from structprune.pruning.budget import Budget, Pick, Plan, select
from structprune.pruning.fractions import exponential, one_shot
from structprune.pruning.surgery import regrouped, shrink
from structprune.reconstruction import Reconstruction, rechoose, reconstruct
from structprune.scoring.samples import Samples
from structprune.scoring.score import Scoring, check_groups, order
from structprune.scoring.scores import Scores


@dataclass(frozen=True)
class Choice:
    """Channels that stay, and what they were chosen by.

    Attributes:
        plan: group -> channels that stay.
        scores: of the last step, in terms of the dense groups.
        notes: what a reader must know of how they were chosen.
    """

    plan: Plan
    scores: Scores
    notes: tuple[str, ...] = ()


def choose(
    model: nn.Module,
    groups: ChannelGroups,
    samples: Samples,
    scoring: Scoring,
    budget: Budget,
    progress: Callable[[str], None] = lambda _: None,
    correction: Reconstruction | None = None,
    pick: Pick | None = None,
    along: Callable[[Scores], Plan] | None = None,
) -> Choice:
    """Choose the channels that stay, in one shot or in steps.

    Every step scores what the last one left, reconstructed where a correction follows, and aims at a
    cumulative target. A channel that is gone scores minus infinity from then on, so that floors, divisors and
    ties are those of the dense network.

    Args:
        model: the dense network.
        groups: its groups of channels.
        samples: what it is scored on.
        scoring: how.
        budget: how much goes.
        progress: told what happens next.
        correction: how the network is reconstructed after the cut, and so after every step; it may choose
            other channels than the scores do, as many of every group.
        pick: chooses by the scores; None: ``select``.
        along: scores -> the least cut along them that keeps all limits, where these and not the budget say
            how deep it goes. Asked in every step: all but the last go a part of the way there.

    Raises:
        TargetUnreachableError: nothing can be cut, or not so much.
    """
    check_groups(groups)
    pick, steps = pick or select, scoring.steps
    select(_flat_scores(groups), groups, budget)  # an unreachable target is refused before any work
    plan: Plan | None = None
    ranked: Scores | None = None
    for step in range(1, steps + 1):
        progress(f"scoring, step {step} of {steps}" if steps > 1 else "scoring")
        current = model if plan is None else _cut_so_far(model, groups, plan, correction)
        scores = _next_scores(current, groups, plan, samples, scoring)
        if along is not None:
            ranked = _all_ranked(scores, ranked)
            cut = along(ranked)
            budget = cut.budget
        if along is None or step < steps:
            target = next(islice(_targets(budget.remove, steps), step - 1, None))
            cut = pick((ranked or scores).values, groups, replace(budget, remove=target))
        plan, notes = _refined(model, groups, cut, correction)
        if not budget.remove:
            break
    assert plan is not None
    return Choice(replace(plan, budget=budget), scores, notes)


def _targets(remove: float, steps: int) -> Iterator[float]:
    return one_shot(remove) if steps == 1 else exponential(remove, steps)


def _all_ranked(scores: Scores, earlier: Scores | None) -> Scores:
    """Scores in which channels that are gone stand below all others, in the order that they had.

    So a later step, whose scores need less to go, can take some of them back.
    """
    if earlier is None:
        return scores
    gone = {name: values == -torch.inf for name, values in scores.values.items()}
    least = min(float(values[~gone[name]].min()) for name, values in scores.values.items())
    most = max((float(x) for name, mask in gone.items() for x in earlier.values[name][mask]), default=least)
    below = {name: values.double() - max(0.0, most - least) - 1.0 for name, values in earlier.values.items()}
    values = {name: torch.where(gone[name], below[name], x.double()) for name, x in scores.values.items()}
    return replace(scores, values=values)


def _cut_so_far(
    model: nn.Module, groups: ChannelGroups, plan: Plan, correction: Reconstruction | None
) -> nn.Module:
    """What a step left, in a form that still works, so that the next one can score it."""
    small = shrink(model, groups, plan)
    return small if correction is None else reconstruct(model, small, groups, plan, correction).model


def _refined(
    model: nn.Module, groups: ChannelGroups, plan: Plan, correction: Reconstruction | None
) -> tuple[Plan, tuple[str, ...]]:
    """As many channels of every group, those with which what reads them is reconstructed best.

    It may take channels back that an earlier step gave up, since every step is a cut of the dense network.
    """
    if correction is None or not correction.rechooses:
        return plan, ()
    refined = rechoose(model, groups, plan, correction)
    others = sum(int((refined.keep[name] & ~keep).sum()) for name, keep in plan.keep.items())
    kept = sum(int(keep.sum()) for keep in plan.keep.values())
    words = (
        f"scores say how wide groups stay; {others} of the {kept} channels kept are not those of the highest "
        "scores but those with which the layers that read them can be refitted best"
    )
    return refined, (words,) if others else ()


def choose_next(
    current: nn.Module,
    groups: ChannelGroups,
    plan: Plan | None,
    samples: Samples,
    scoring: Scoring,
    budget: Budget,
) -> tuple[Plan, Scores]:
    """Choose once more, on a network that is perhaps already cut.

    Args:
        current: the network as it is now.
        groups: the groups of the dense network.
        plan: what ``current`` keeps of them, or None where nothing is gone.
        samples: what scores.
        scoring: how.
        budget: how much is to be gone of the dense network, what is gone already included.

    Returns:
        What is to stay of the dense groups, and the scores in their terms.
    """
    scores = _next_scores(current, groups, plan, samples, scoring)
    return select(scores.values, groups, budget), scores


def _next_scores(
    current: nn.Module, groups: ChannelGroups, plan: Plan | None, samples: Samples, scoring: Scoring
) -> Scores:
    """Scores of a network that is perhaps already cut, in terms of the dense groups."""
    if plan is None:
        return order(current, groups, samples, scoring)
    return _in_dense_terms(order(current, regrouped(groups, plan), samples, scoring), plan)


def _flat_scores(groups: ChannelGroups) -> dict[str, Tensor]:
    return {group.name: torch.zeros(group.size) for group in groups}


def _in_dense_terms(scores: Scores, plan: Plan) -> Scores:
    values = {}
    for name, keep in plan.keep.items():
        values[name] = torch.full(keep.shape, -torch.inf, dtype=torch.float64)
        values[name][keep] = scores.values[name].double()
    return replace(scores, values=values)
