"""Trying groups before they are offered: what a trace can't see, a cut shows.

Some couplings leave no mark on tensors: a width that is written into the code, a value computed from a
width, what goes through another library. So all groups are cut at once on a copy, at random, and compared
with closed gates. Where that fails, bisection finds the culprits and protects them.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from structprune.batch_norm import evaluating
from structprune.budget import Budget, Plan, removal_steps
from structprune.channels import ChannelGroup, ChannelGroups
from structprune.errors import InputError
from structprune.gates import gate_channels
from structprune.surgery import shrink

# In float64 a right cut is exact to rounding and a wrong one is off by about the spread of the outputs.
_EXACT = 1e-6


def trusted(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> ChannelGroups:
    """Cut about half of every group on a copy, and protect the groups that don't come out right.

    Costs one cut and two passes in float64 where nothing is wrong, and at most 2 log2(groups) of these
    for every culprit;
    of groups at the same place in like blocks one is searched for and the others are asked.

    Args:
        model: the network; it is left as it was.
        groups: what the graph offers.
        inputs: a few positional inputs.

    Returns:
        The groups that can be trusted.

    Raises:
        InputError: two runs of the network, nothing cut, don't agree.
    """
    exact = copy.deepcopy(model).double()
    doubles = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    if _right(exact, groups, doubles):
        return groups
    if not _right(exact, groups, doubles, ()):
        raise InputError(
            "two runs of the network on the same inputs don't agree, or it can't run in float64 with "
            "batch statistics, so no cut of it can be proven; make its forward pass deterministic"
        )
    left = groups
    while len(left) and not _right(exact, left, doubles):
        culprit = _culprit(exact, left, doubles)
        # Where one of many like blocks can't be cut, the others often can't either: each is asked alone.
        alike = [g for g in left if g is not culprit and _kind(g) == _kind(culprit)]
        wrong = [culprit, *(g for g in alike if not _right(exact, left, doubles, (g,)))]
        left = left.without(
            {g.name: "a trial cut of its channels changes what the network computes" for g in wrong}
        )
    return left


def _kind(group: ChannelGroup) -> str:
    """The name without its numbers: groups at the same place in like blocks have the same."""
    return re.sub(r"\d+", "#", group.name)


def _culprit(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> ChannelGroup:
    """Return the last group of the shortest prefix that goes wrong."""
    right, wrong = 0, len(groups)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if _right(model, groups, inputs, groups.groups[:middle]):
            right = middle
        else:
            wrong = middle
    return groups[wrong - 1]


def _right(
    model: nn.Module,
    groups: ChannelGroups,
    inputs: tuple[Tensor, ...],
    some: Sequence[ChannelGroup] | None = None,
) -> bool:
    """Tell whether cutting some of the groups equals closing their gates."""
    plan = _some(groups, groups.groups if some is None else some)
    gated = gate_channels(model, groups)
    device = next(model.parameters()).device
    gates = {name: keep.to(device, torch.float64) for name, keep in plan.keep.items()}
    try:
        small = shrink(model, groups, plan)
        with torch.no_grad(), evaluating(model, "batch"), evaluating(small, "batch"):
            closed, cut = tree_leaves(gated(gates, inputs)), tree_leaves(small(*inputs))
        return all(_close(a, b) for a, b in zip(closed, cut, strict=True))
    except torch.OutOfMemoryError:
        raise
    # Whatever a forward pass raises when a width is not what its code expects.
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, InputError):
        return False


def _close(a: object, b: object) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return a == b
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    spread = b.std(dim=0).mean() if b.dim() else b.abs()
    apart = (a - b).abs().max()
    return bool(apart <= _EXACT * torch.maximum(spread, 1e-6 * b.abs().max()))


def _some(groups: ChannelGroups, some: Sequence[ChannelGroup]) -> Plan:
    """Remove a tenth to four tenths of some groups, at random, the same in every run.

    The shares differ, since code may rely on two groups being of one width, and most of the network stays,
    since where nothing passes any more no fault would show.
    """
    generator = torch.Generator().manual_seed(0)
    keep = {group.name: torch.ones(group.size, dtype=torch.bool) for group in groups}
    for group in some:
        steps = list(removal_steps(group, torch.rand(group.size, generator=generator), Budget(0.0)))
        share = 0.1 + 0.3 * float(torch.rand((), generator=generator))
        gone = [c for step in steps[: math.ceil(share * len(steps))] for c in step.channels]
        keep[group.name][gone] = False
    return Plan(keep, Budget(0.0), 0.0)
