"""One ranking of a network's channels, cut at any depth, and what is left there; no weight is touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups
from structprune.pruning.budget import Budget, Pick, Plan, reachable, removal_steps, select, whole
from structprune.pruning.counts import weight_entries
from structprune.pruning.surgery import shrink
from structprune.scoring.fusion import ranks

CountFlops = Callable[[nn.Module, tuple[Tensor, ...]], int]


@dataclass(frozen=True)
class Counts:
    """What a network has, counted.

    Attributes:
        nodes: that are gone.
        weights: entries of conv and linear weights.
        params: entries of every parameter.
        flops: multiply-adds of one input, or None where they can't be counted.
    """

    nodes: int
    weights: int
    params: int
    flops: int | None


@dataclass(frozen=True)
class Ranking:
    """Scores that were taken once, and all cuts along them.

    A depth is a number of nodes: the cut at it is what ``pick`` removes for that many. Shapes are all that
    counting takes, so that it works on a copy without values where torch can.

    Attributes:
        model: the dense network.
        groups: its groups of channels.
        scores: group name -> (C,) scores, larger = keep.
        budget: floor and alignment of every cut; how much it removes means nothing here.
        example: inputs that the network takes.
        count_flops: counts multiply-adds, or None.
        pick: chooses what stays at a depth; it removes as many nodes as
            :func:`~structprune.pruning.budget.select` does.
    """

    model: nn.Module
    groups: ChannelGroups
    scores: Mapping[str, Tensor]
    budget: Budget
    example: tuple[Tensor, ...]
    count_flops: CountFlops | None = None
    pick: Pick = select
    _reached: dict[int, int] = field(default_factory=dict, repr=False)
    _plans: dict[int, Plan] = field(default_factory=dict, repr=False)
    _counts: dict[bytes, Counts] = field(default_factory=dict, repr=False)
    _shapes: list[nn.Module] = field(default_factory=list, repr=False)

    @property
    def most(self) -> int:
        """The deepest cut that floors, divisors and the alignment allow, in nodes."""
        return round(reachable(self.groups, self.budget) * self.groups.nodes)

    @property
    def largest_step(self) -> int:
        """The most nodes that leave together: how uneven cuts along the ranking can be."""
        steps = (s for g in self.groups for s in removal_steps(g, torch.zeros(g.size), self.budget))
        return max((step.cost for step in steps), default=0)

    def plan(self, depth: int) -> Plan:
        """Return the cut at a depth; at 0 it is none, also where an earlier step has cut already."""
        if not depth:
            return whole(self.groups, self._at(0))
        if depth not in self._plans:
            self._plans[depth] = self.pick(self.scores, self.groups, self._at(depth))
        return self._plans[depth]

    def _at(self, depth: int) -> Budget:
        return replace(self.budget, remove=depth / max(self.groups.nodes, 1))

    def settle(self, depth: int) -> int:
        """Return how many nodes the cut at a depth removes: the least depth with the same cut."""
        if not depth:
            return 0
        if depth not in self._reached:  # picking for a device takes longer, and comes to as many
            plan = (
                self.plan(depth) if self.pick is select else select(self.scores, self.groups, self._at(depth))
            )
            self._reached[depth] = round(plan.reached * self.groups.nodes)
        return self._reached[depth]

    def network(self, depth: int) -> nn.Module:
        """Return the shrunk network at a depth, in evaluation mode."""
        return shrink(self.model, self.groups, self.plan(depth)).eval()

    def counts(self, depth: int) -> Counts:
        """Return what the network at a depth has."""
        # Many depths have the same cut.
        cut = b"".join(keep.numpy().tobytes() for keep in self.plan(depth).keep.values())
        if cut not in self._counts:
            small = shrink(self._without_values(), self.groups, self.plan(depth)).eval()
            params = sum(p.numel() for p in small.parameters())
            flops = self._flops(small, depth)
            self._counts[cut] = Counts(self.settle(depth), weight_entries(small), params, flops)
        return self._counts[cut]

    def kept_score(self, depth: int) -> float:
        """Return the sum of the kept channels' ranks over the sum of all: 1 where nothing is gone."""
        ranked, keep = ranks(self.scores), self.plan(depth).keep
        kept = sum(float(ranked[name][keep[name]].double().sum()) for name in ranked)
        return kept / sum(float(rank.double().sum()) for rank in ranked.values())

    def _without_values(self) -> nn.Module:
        """Return a copy that has shapes and no values, or the network where torch can't cut such a one."""
        if not self._shapes:
            copied = copy.deepcopy(self.model).to("meta")
            try:
                shrink(copied, self.groups, self.plan(self.most))
            # Which operations lack a form without values differs by release, and so does what they raise.
            except Exception:
                copied = self.model
            self._shapes.append(copied)
        return self._shapes[0]

    def _flops(self, small: nn.Module, depth: int) -> int | None:
        """Count multiply-adds on the copy without values, and where that can't run on the network itself."""
        if self.count_flops is None:
            return None
        try:
            place = next(small.parameters()).device
            return self.count_flops(small, tuple(x[:1].to(place) for x in self.example))
        except Exception:  # an operation without such a form, or a forward pass that looks at values
            with suppress(Exception):  # an optional figure, of a forward pass that may raise anything
                return self.count_flops(self.network(depth), tuple(x[:1] for x in self.example))
        return None
