"""Widths that a device likes: chosen by its profile for the least time per kept score, at the exact target.

:func:`structprune.pruning.budget.select` says how many nodes leave, and its choice is where the search
begins: it is what comes back where nothing better is found, so that no target becomes unreachable. What is
found holds the same floors and divisors, removes as many nodes, keeps at least 95 % of the score that its
choice keeps, and at least a quarter of the width of every group, and takes no more time by the profile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor, nn

from structprune.channels import ChannelGroup, ChannelGroups
from structprune.hardware.cost_model import Layers, Problem, layers_of, options_of
from structprune.hardware.layer_times import LayerCall, layer_calls, layer_us
from structprune.hardware.profile import DeviceProfile
from structprune.hardware.width_search import Bounds, search
from structprune.pruning.budget import Budget, Pick, Plan, first_taken, kept_channels, removal_steps, select

LEAST_SCORE = 0.95
"""Part of the score without alignment that must stay."""

LEAST_WIDTH = 0.25
"""Part of its width without alignment that every group keeps: a sum of scores doesn't see a bottleneck.

Of a resnet18 trained on digits, mended, one seed, a quarter kept the accuracy of a half to a point or two
and was up to 1.4 times as fast; a tenth took five points of a ResNet-20 that lost 75 % of its inner channels.
"""


@dataclass(frozen=True)
class Comparison:
    """A plan beside the one without alignment.

    Attributes:
        us: modelled microseconds of both, the one without alignment first.
        kept: the part of that one's score that the best channels keep at the plan's widths; a correction may
            have chosen others among them.
    """

    us: tuple[float, float]
    kept: float

    def __str__(self) -> str:
        return (
            f"modelled time {self.us[1] / self.us[0]:.2f} times that of the same choice without alignment, "
            f"with {100 * self.kept:.0f} % of its score"
        )


def device_layers(
    model: nn.Module, example: Sequence[Tensor], groups: ChannelGroups, profile: DeviceProfile
) -> Layers:
    """Return how the time of a network's layers depends on its widths; one pass is run on the example."""
    return layers_of(model, groups, layer_calls(model, example), profile)


def picking(layers: Layers | None) -> Pick | None:
    """Return what chooses the channels that stay by these layers, or None where nothing does."""
    return None if layers is None else partial(select_for, layers)


def select_for(
    layers: Layers,
    scores: Mapping[str, Tensor],
    groups: ChannelGroups,
    budget: Budget,
    *,
    least_score: float = LEAST_SCORE,
    least_width: float = LEAST_WIDTH,
) -> Plan:
    """Choose the channels that stay, at the widths that a device likes.

    Args:
        layers: of the network, from :func:`device_layers`.
        scores: group name -> (C,) scores, larger = keep, comparable over the whole network; minus infinity
            for what left in an earlier step.
        groups: the groups of the network.
        budget: how many nodes to remove.
        least_score: the part of the score without alignment that must stay.
        least_width: the part of its width without alignment that every group keeps.

    Returns:
        The plan; it removes as many nodes as :func:`structprune.pruning.budget.select` does.

    Raises:
        TargetUnreachableError: the floors or divisors stand in the way.
    """
    free = select(scores, groups, budget)
    if not len(groups) or not layers.batches:
        return free
    shifted = _not_negative(scores)
    target = round(budget.remove * groups.nodes)
    steps = {g.name: tuple(removal_steps(g, scores[g.name], budget)) for g in groups}
    first = first_taken(steps, target, budget.every_group)
    stays = {name: int(keep.sum()) for name, keep in free.keep.items()}
    problem = Problem(
        layers,
        tuple(
            options_of(g, steps[g.name], first[g.name], least_width * stays[g.name], shifted[g.name])
            for g in groups
        ),
    )
    start = np.array(
        [
            int(np.flatnonzero(options.width == stays[group.name])[0])
            for group, options in zip(groups, problem.options, strict=True)
        ]
    )
    bounds = Bounds(problem.nodes(start), least_score * problem.kept(start), problem.us(start))
    found = search(problem, start, bounds)
    taken = {g.name: int(o.steps[k]) for g, o, k in zip(groups, problem.options, found, strict=True)}
    return Plan(kept_channels(groups, steps, taken), budget, free.reached)


def compare(
    layers: Layers, scores: Mapping[str, Tensor], groups: ChannelGroups, free: Plan, plan: Plan
) -> Comparison:
    """Hold a plan against the one without alignment."""
    us = [layers.us(np.array([float(p.keep[g.name].sum()) for g in groups])) for p in (free, plan)]
    shifted = _not_negative(scores)
    kept = [sum(_best(g, shifted[g.name], int(p.keep[g.name].sum())) for g in groups) for p in (free, plan)]
    return Comparison((us[0], us[1]), kept[1] / kept[0] if kept[0] else 1.0)


def _best(group: ChannelGroup, scores_C: Tensor, count: int) -> float:
    blocks = scores_C.reshape(group.divisor, -1)
    return float(blocks.topk(count // group.divisor, dim=1).values.sum())


def _not_negative(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Count negative scores from the least of them, since a part of a sum of both signs means nothing."""
    least = min(
        (float(x[x.isfinite()].min()) for x in scores.values() if bool(x.isfinite().any())), default=0.0
    )
    return {name: x.double() - min(least, 0.0) for name, x in scores.items()}


__all__ = [
    "Comparison",
    "LayerCall",
    "Layers",
    "compare",
    "device_layers",
    "layer_calls",
    "layer_us",
    "picking",
    "select_for",
]
