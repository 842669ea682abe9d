"""What may go and what goes: one global ranking of channels, cut to an exact number of nodes.

Nothing here touches a network. The rules, in the order in which they matter:

1. Every group keeps at least its floor, and a floor is never below one channel, or two behind a LayerNorm.
2. Channels of a group with a divisor, or under an alignment, leave in steps that keep the width valid:
   the worst of each block together.
3. Steps leave from the worst mean score to the best; ties go by (group, channel), never by comparison
   with a threshold.
4. Every group gives up one step, its worst, where these steps together are a small part of the target:
   a layer that nothing is taken from is then a layer that can't be cut, and the report says why.
5. A step that costs more nodes than are left is passed over, and cheaper ones fill the remainder.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from structprune.channels import ChannelGroup, ChannelGroups
from structprune.errors import TargetUnreachableError, UsageError

Unit = Literal["nodes", "weights"]
_SMALL_PART = 0.2


@dataclass(frozen=True)
class Budget:
    """How much is to go.

    Attributes:
        remove: the fraction to remove, in [0, 1).
        unit: of what.
        floor: the fraction of its width that every group keeps at least; never less than one channel.
        align: widths become multiples of it, or stay as they are.
        every_group: whether every group gives up at least one step, where these together take no more than
            a fifth of the target; without it a layer may stay whole by its scores.
    """

    remove: float
    unit: Unit = "nodes"
    floor: float = 0.02
    align: int = 1
    every_group: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.remove < 1.0:
            raise UsageError(f"{self.unit} {self.remove:g} is no fraction in [0, 1); 0.89 removes 89 %")
        if not 0.0 <= self.floor < 1.0:
            raise UsageError(f"floor {self.floor:g} is no fraction in [0, 1)")
        if self.align < 1:
            raise UsageError(f"align {self.align} is no positive number of channels")


@dataclass(frozen=True)
class Plan:
    """What stays.

    Attributes:
        keep: group name -> (C,) bool tensor, True where the channel stays.
        budget: what was asked.
        reached: the fraction of the budget's unit that the plan removes.
    """

    keep: Mapping[str, Tensor]
    budget: Budget
    reached: float


Pick = Callable[[Mapping[str, Tensor], ChannelGroups, Budget], Plan]
"""What chooses the channels that stay by their scores: :func:`select`, or another that keeps its rules."""


@dataclass(frozen=True)
class Step:
    """Channels of one group that leave together or not at all.

    Attributes:
        channels: indices in the group, worst first.
        cost: nodes that leave with them.
        score: mean score of the channels.
    """

    channels: tuple[int, ...]
    cost: int
    score: float


def select(scores: Mapping[str, Tensor], groups: ChannelGroups, budget: Budget) -> Plan:
    """Choose the channels that stay.

    Args:
        scores: group name -> (C,) scores, larger = keep, comparable over the whole network.
        groups: the groups of the network, with the number of its nodes.
        budget: how many nodes to remove.

    Returns:
        The plan; what it removes misses the target by less than the smallest step that could still leave.

    Raises:
        TargetUnreachableError: the floors, divisors or the alignment stand in the way; the message gives
            the reachable range and the layers that block it.

    Example:
        >>> from structprune.channels import Coupling
        >>> group = ChannelGroup("conv", 4, (Coupling("conv", (0, 1, 2, 3), (0, 1, 2, 3)),), ())
        >>> network = ChannelGroups((group,), (), {"conv": 4}, ("fc",))
        >>> select({"conv": torch.tensor([3.0, 1.0, 2.0, 1.0])}, network, Budget(0.5)).keep["conv"]
        tensor([ True, False,  True, False])
    """
    target = round(budget.remove * groups.nodes)
    steps = {group.name: tuple(removal_steps(group, scores[group.name], budget)) for group in groups}
    _check_reachable(groups, steps, target, budget)
    first = first_taken(steps, target, budget.every_group)
    taken = _swap(steps, first, _fill(steps, first, target), target)
    removed = _removed(steps, taken)
    return Plan(kept_channels(groups, steps, taken), budget, removed / max(groups.nodes, 1))


def removal_steps(group: ChannelGroup, scores_C: Tensor, budget: Budget) -> Iterator[Step]:
    """Yield the steps in which a group may shrink, from the worst channels on, down to its floor.

    Args:
        group: the group, of C channels.
        scores_C: its scores, larger = keep.
        budget: its floor and alignment.

    Yields:
        Steps whose channels lie in every block of the group's divisor in equal number.
    """
    rows = _blocks_worst_first(group, scores_C)
    costs = group.costs
    for first, last in _row_ranges(group, budget):
        channels = tuple(channel for row in rows[first:last] for channel in row)
        mean = sum(scores_C[list(channels)].tolist()) / len(channels)
        yield Step(channels, sum(costs[channel] for channel in channels), mean)


def _blocks_worst_first(group: ChannelGroup, scores_C: Tensor) -> list[tuple[int, ...]]:
    """Row j holds the j-th worst channel of each block; without a divisor a row is one channel."""
    width = group.size // group.divisor
    blocks = scores_C.reshape(group.divisor, width)
    order = torch.sort(blocks, dim=1, stable=True).indices + width * torch.arange(group.divisor)[:, None]
    return [tuple(row) for row in order.T.tolist()]


def _row_ranges(group: ChannelGroup, budget: Budget) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows that leave together: single rows, or what ends on an aligned width."""
    multiple = math.lcm(budget.align, group.divisor) // group.divisor
    rows = group.size // group.divisor
    least = max(math.ceil(group.least / group.divisor), math.ceil(budget.floor * rows - 1e-9))
    least = math.ceil(least / multiple) * multiple
    width = rows
    while (smaller := (math.ceil(width / multiple) - 1) * multiple) >= least:
        yield rows - width, rows - smaller
        width = smaller


def whole(groups: ChannelGroups, budget: Budget) -> Plan:
    """Plan that removes nothing."""
    return Plan({group.name: torch.ones(group.size, dtype=torch.bool) for group in groups}, budget, 0.0)


def reachable(groups: ChannelGroups, budget: Budget) -> float:
    """Return the largest fraction of nodes that floors, divisors and the alignment allow to remove."""
    steps = {g.name: tuple(removal_steps(g, torch.zeros(g.size), budget)) for g in groups}
    return _removed(steps, {name: len(row) for name, row in steps.items()}) / max(groups.nodes, 1)


Steps = Mapping[str, Sequence[Step]]
Taken = dict[str, int]
"""How many of a group's steps leave; they leave in the group's own order."""
Trade = tuple[int, float, str, str, int]
"""What stays left, the score lost, the group that takes a step, the one that returns some, how many."""


def first_taken(steps: Steps, target: int, every_group: bool) -> Taken:
    """Take what an earlier step of the schedule took, and the worst step of every group that gave none.

    The latter only where these are a small part of the target.
    """
    gone = {name: sum(step.score == -math.inf for step in row) for name, row in steps.items()}
    each = {name: max(gone[name], min(1, len(row))) for name, row in steps.items()}
    new = _removed(steps, each) - _removed(steps, gone)
    fits = new <= min(_SMALL_PART * target, target - _removed(steps, gone))
    return each if every_group and fits else gone


def _fill(steps: Steps, first: Taken, target: int) -> Taken:
    """Take more steps, from the worst on, while they fit.

    A step enters the queue when its predecessor is taken. Means grow within a group, so the queue yields
    the order of one global sort.
    """
    names = list(steps)
    taken = dict(first)
    left = target - _removed(steps, taken)
    heads = [(i, taken[name]) for i, name in enumerate(names) if taken[name] < len(steps[name])]
    queue = [(steps[names[i]][position].score, i, position) for i, position in heads]
    heapq.heapify(queue)
    while queue:
        _, i, position = heapq.heappop(queue)
        row = steps[names[i]]
        if row[position].cost > left:
            continue
        left -= row[position].cost
        taken[names[i]] += 1
        if position + 1 < len(row):
            heapq.heappush(queue, (row[position + 1].score, i, position + 1))
    return taken


def _swap(steps: Steps, first: Taken, taken: Taken, target: int) -> Taken:
    """Trade cheap steps for dearer ones until the rest is smaller than the smallest step.

    Needed where every cheap group is at its floor and what is left is less than a step of the others.
    """
    smallest = _smallest_step(steps)
    while (left := target - _removed(steps, taken)) >= smallest:
        trades = [trade for trade in _trades(steps, first, taken, left) if trade[0] < left]
        if not trades:
            break
        _, _, dearer, cheaper, returned = min(trades)
        taken = {**taken, dearer: taken[dearer] + 1}
        taken[cheaper] -= returned
    return taken


def _trades(steps: Steps, first: Taken, taken: Taken, left: int) -> Iterator[Trade]:
    """Yield every trade of one step of a group for the last few of another."""
    heads = {name: row[taken[name]] for name, row in steps.items() if taken[name] < len(row)}
    for dearer, head in heads.items():
        for cheaper, row in steps.items():
            returned, loss = 0, head.score
            # What left in an earlier step of the schedule, or for every group to give something, stays gone.
            for k, step in enumerate(reversed(row[first[cheaper] : taken[cheaper]]), start=1):
                returned, loss = returned + step.cost, loss - step.score
                if cheaper != dearer and left + returned >= head.cost:
                    yield left + returned - head.cost, loss, dearer, cheaper, k
                    break


def kept_channels(groups: ChannelGroups, steps: Steps, taken: Mapping[str, int]) -> dict[str, Tensor]:
    """Return group name -> which channels stay once so many of its steps have left."""
    keep = {group.name: torch.ones(group.size, dtype=torch.bool) for group in groups}
    for name, count in taken.items():
        gone = [channel for step in steps[name][:count] for channel in step.channels]
        keep[name][gone] = False
    return keep


def _removed(steps: Steps, taken: Taken) -> int:
    return sum(step.cost for name, count in taken.items() for step in steps[name][:count])


def _smallest_step(steps: Steps) -> int:
    return min((step.cost for row in steps.values() for step in row), default=1)


def _check_reachable(groups: ChannelGroups, steps: Steps, target: int, budget: Budget) -> None:
    most = _removed(steps, {name: len(row) for name, row in steps.items()})
    if target <= most:
        return
    blocking = "; ".join(_obstacles(groups, steps))
    raise TargetUnreachableError(
        f"nodes {budget.remove:g} can't be reached: this network allows 0 to "
        f"{_floor3(most / groups.nodes):.3f} ({most} of {groups.nodes} nodes){_settings(budget)}; "
        f"in the way: {blocking}"
    )


def _obstacles(groups: ChannelGroups, steps: Steps, most: int = 4) -> Iterator[str]:
    """Name what keeps the most nodes: protected layers by their reason, then groups at their floor."""
    by_reason: dict[str, list[str]] = {}
    for row in groups.protected:
        if row.layer in groups.widths:
            by_reason.setdefault(row.reason, []).append(row.layer)
    for reason, layers in by_reason.items():
        nodes = sum(groups.widths[layer] for layer in layers)
        yield f"{nodes} nodes of {_few(layers)} ({reason})"
    kept = {g.name: sum(g.costs) - sum(step.cost for step in steps[g.name]) for g in groups}
    worst = sorted(kept, key=lambda name: -kept[name])[:most]
    if worst:
        yield "at their narrowest " + ", ".join(f"{name} ({kept[name]} nodes)" for name in worst)


def in_the_way(groups: ChannelGroups, budget: Budget) -> str:
    """Say in half a sentence what keeps cuts from going deeper: settings, then the layers that block."""
    steps = {g.name: tuple(removal_steps(g, torch.zeros(g.size), budget)) for g in groups}
    return f"{_settings(budget)}; in the way: {'; '.join(_obstacles(groups, steps))}"


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _settings(budget: Budget) -> str:
    align = f" in widths of multiples of {budget.align}" if budget.align > 1 else ""
    return f"{align} with a floor of {budget.floor:g} of each width"


def _floor3(fraction: float) -> float:
    """Round down, so that the range that is named can itself be asked for."""
    return math.floor(fraction * 1000) / 1000
