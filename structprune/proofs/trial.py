"""One trial: a part of every group cut on a copy, and held against closed gates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroup, ChannelGroups
from structprune.errors import InputError
from structprune.nn.batch_norm import evaluating
from structprune.nn.outputs import tensors_of
from structprune.nn.precision import cast_inputs, doubles_kept, in_precision, real_parameter
from structprune.proofs.comparison.gap import IN_FLOAT32, IN_FLOAT64, gap
from structprune.pruning.budget import Budget, Plan, removal_steps
from structprune.pruning.gates import gate_channels, renormalised
from structprune.pruning.surgery import shrink

# Those of the proof: what passes here passes there.
BOUNDS = {torch.float64: IN_FLOAT64, torch.float32: IN_FLOAT32}


@dataclass(frozen=True)
class TrialCut:
    """What is cut to see whether it can be.

    Attributes:
        groups: some of the network's.
        shares: the least and the most of a group's steps that leave, as fractions.
    """

    groups: tuple[ChannelGroup, ...]
    shares: tuple[float, float]


SHALLOW = (0.1, 0.4)


DEEP = (0.55, 0.9)


NOTHING = TrialCut((), SHALLOW)


@dataclass(frozen=True)
class Verdict:
    """What trials said.

    Attributes:
        failing: one that went wrong, or None.
        varied: whether outputs varied over the inputs, without which nothing could go wrong.
    """

    failing: TrialCut | None
    varied: bool


def verdict_on(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> Verdict:
    """Try a cut of all groups and one of about every other one.

    Of some alone, since a cut may come out right only beside another one. These lose more than half, since
    code may count on a half; where all do, nothing passes any more and no fault would show.
    """
    varied = not len(groups)
    for trial in (TrialCut(groups.groups, SHALLOW), _some(groups)):
        if not trial.groups:
            continue
        outputs = _outputs(model, groups, inputs, trial)
        if outputs is None or not _close(*outputs):
            return Verdict(trial, True)
        varied = varied or outputs_vary(outputs[0])
    return Verdict(None, varied)


def _some(groups: ChannelGroups) -> TrialCut:
    """Cut deep into about every other group."""
    generator = torch.Generator().manual_seed(1)
    fewer = tuple(group for group in groups if torch.rand((), generator=generator) < 0.5)
    return TrialCut(fewer or groups.groups[:1], DEEP)


def failing_group(failing: TrialCut, equal: Callable[[TrialCut], bool]) -> ChannelGroup:
    """Return the last group of the shortest prefix that goes wrong."""
    right, wrong = 0, len(failing.groups)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if equal(replace(failing, groups=failing.groups[:middle])):
            right = middle
        else:
            wrong = middle
    return failing.groups[wrong - 1]


def is_equal(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...], trial: TrialCut) -> bool:
    """Tell whether cutting some of the groups equals closing their gates."""
    outputs = _outputs(model, groups, inputs, trial)
    return outputs is not None and _close(*outputs)


def _outputs(
    model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...], trial: TrialCut
) -> tuple[Any, Any] | None:
    """Return what the cut network puts out, and what closed gates do; None where one of them can't run."""
    plan = plan_of(groups, trial)
    gated = renormalised(gate_channels(model, groups), groups)
    like = real_parameter(model)
    gates = {name: keep.to(like.device, like.dtype) for name, keep in plan.keep.items()}
    try:
        small = shrink(model, groups, plan)
        with torch.no_grad(), doubles_kept(model), evaluating(model, "batch"), evaluating(small, "batch"):
            expected = gated(gates, inputs)
            return small(*inputs), expected
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a forward pass raises when a width is not what its code expects
        return None


def _close(outputs: object, expected: object) -> bool:
    try:
        distance = gap(expected, outputs)
    except InputError:
        return False
    dtypes = {x.real.dtype for x in tensors_of(expected)}
    return BOUNDS[torch.float64 if torch.float64 in dtypes else torch.float32].agree(distance)


def plan_of(groups: ChannelGroups, trial: TrialCut) -> Plan:
    """Remove channels at random, the same in every run.

    The shares differ, since code may rely on two groups being of one width.
    """
    least, most = trial.shares
    generator = torch.Generator().manual_seed(0)
    keep = {group.name: torch.ones(group.size, dtype=torch.bool) for group in groups}
    for group in trial.groups:
        steps = list(removal_steps(group, torch.rand(group.size, generator=generator), Budget(0.0)))
        share = least + (most - least) * float(torch.rand((), generator=generator))
        gone = [c for step in steps[: math.ceil(share * len(steps))] for c in step.channels]
        keep[group.name][gone] = False
    return Plan(keep, Budget(0.0), 0.0)


def in_dtype(
    dtype: torch.dtype, model: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A copy of a network and its inputs in a floating-point type."""
    return in_precision(copy.deepcopy(model), dtype), cast_inputs(inputs, dtype)


def outputs_vary(outputs: object) -> bool:
    """Tell whether any output varies over the inputs, or none could."""
    tensors = [x for x in tensors_of(outputs) if x.is_floating_point()]
    several = [x for x in tensors if x.dim() and len(x) > 1 and x.numel()]
    return not several or any(bool(x.std(0).mean() > 1e-6 * x.abs().max()) for x in several)
