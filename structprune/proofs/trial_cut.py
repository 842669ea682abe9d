"""Trying groups before they are offered: what a trace can't see, a cut shows.

Some couplings leave no mark on tensors: a width that is written into the code, a value computed from a
width, what goes through another library. So all groups are cut at once on a copy, at random, and compared
with closed gates. Where that fails, bisection finds the culprits and protects them.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroup, ChannelGroups, Coupling, channel_groups
from structprune.channels.scope import EVERYTHING, Scope, picked
from structprune.channels.subsampling import thinned
from structprune.errors import InputError
from structprune.nn.batch_norm import evaluating
from structprune.nn.outputs import tensors_of
from structprune.nn.precision import doubles_kept, in_precision, real_parameter
from structprune.nn.reinit import begun_again
from structprune.proofs.comparison.control_flow import branches
from structprune.proofs.comparison.gap import IN_FLOAT32, IN_FLOAT64, gap
from structprune.proofs.comparison.influence import exposed
from structprune.proofs.comparison.lockstep import UNLIKE, Difference, Pair, compare, fits_double
from structprune.proofs.comparison.settings import FEW, Settings, settings_of
from structprune.pruning.budget import Budget, Plan, removal_steps
from structprune.pruning.gates import gate_channels, renormalised
from structprune.pruning.surgery import shrink

_SILENT = "closing its gates changes no output, so no cut of it can be proven"
_WRONG = "a trial cut of its channels changes what the network computes"

# Those of the proof: what passes here passes there.
_BOUNDS = {torch.float64: IN_FLOAT64, torch.float32: IN_FLOAT32}


@dataclass(frozen=True)
class Trial:
    """What is cut to see whether it can be.

    Attributes:
        groups: some of the network's.
        shares: the least and the most of a group's steps that leave, as fractions.
    """

    groups: tuple[ChannelGroup, ...]
    shares: tuple[float, float]


SHALLOW, DEEP = (0.1, 0.4), (0.55, 0.9)
NOTHING = Trial((), SHALLOW)

TRIAL_INPUTS = 3
"""How many inputs a trial cut is compared on."""


def cuttable_groups(
    model: nn.Module, example: tuple[Tensor, ...], inputs: tuple[Tensor, ...], scope: Scope = EVERYTHING
) -> ChannelGroups:
    """Groups of channels that may leave: found on a pass, within a scope, and borne out by a trial cut.

    This is the one answer to which channels may go, for every verb and from Python.

    Args:
        model: the network; it is left as it was.
        example: positional inputs with a batch dimension, which the trace runs on.
        inputs: positional inputs to compare outputs on, of which the first few are taken; varied ones show
            more.
        scope: what the user lets be cut.

    Raises:
        InputError: the network can't be traced, or two runs of it don't agree.
        UsageError: a pattern of the scope matches no layer.
    """
    traced = channel_groups(model, example, scope.cut_padded, scope.embedding)
    few = tuple(x[:TRIAL_INPUTS] if x.dim() else x for x in inputs)
    return trusted(model, picked(traced, scope.skip, scope.only), few)


def trusted(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> ChannelGroups:
    """Cut a part of every group on a copy, and protect the groups that don't come out right.

    Two cuts are compared where nothing is wrong, in float64 unless the network is large, and on every fourth
    or second pixel of large images where the network takes those; then one in all other settings. Else every
    group is tried by itself in the smallest module that holds it, which is cheap, and what is wrong only in
    the whole network is found by bisection, in at most 2 log2(groups) cuts for every culprit.

    Args:
        model: the network; it is left as it was.
        groups: what the trace offers.
        inputs: a few positional inputs.

    Returns:
        The groups that can be trusted.

    Raises:
        InputError: two runs of the network, nothing cut, don't agree.
    """
    # What a network counts or remembers of a call, none of these leaves in the network itself.
    probed = copy.deepcopy(model)
    inputs = _smaller(probed, groups, inputs)
    flow = branches(probed, tuple(x[:FEW] if x.dim() else x for x in inputs))
    left = _right(model, groups, inputs)
    if len(left) and (settings := settings_of(probed, inputs, flow)).tried:
        left = _right_in_other_settings(model, left, settings)
    return replace(left, control_flow=flow) if flow else left


def _right(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> ChannelGroups:
    """Return the groups that come out right on the inputs as they are."""
    if _is_large(model) and (left := _right_in_single(model, groups, inputs)) is not None:
        return left
    exact, doubles = _in(torch.float64, model, inputs)
    exact, right = _tried(exact, groups, doubles)
    if right:
        return groups
    # Code that makes float32 values in its forward pass, perhaps.
    if not _equal(exact, groups, doubles, NOTHING):
        exact, doubles = _in(torch.float32, model, inputs)
        if not _equal(exact, groups, doubles, NOTHING):
            raise InputError(
                "two runs of the network on the same inputs don't agree, or it can't run with batch "
                "statistics, so no cut of it can be proven; make its forward pass deterministic, and "
                "let it leave its inputs as they are"
            )
    left = groups.without(dict.fromkeys(_wrong_at_home(exact, groups, doubles), _WRONG))
    while (failing := _verdict(exact, left, doubles).failing) is not None:
        left = left.without({_culprit(failing, partial(_equal, exact, left, doubles)).name: _WRONG})
    return left


def _right_in_other_settings(model: nn.Module, groups: ChannelGroups, settings: Settings) -> ChannelGroups:
    """Return the groups that come out right in other sizes, batches, scales and modes, and once they show.

    Raises:
        InputError: two runs of the network in a setting, nothing cut, don't agree.
    """
    exposure = exposed(model, groups, settings)
    left = groups.without(dict.fromkeys(exposure.silent, _SILENT))
    for each in exposure.rounds:
        left = _right_in(each.settings, each.model, left)
    return left


def _right_in(settings: Settings, model: nn.Module, groups: ChannelGroups) -> ChannelGroups:
    left = groups
    while len(left) and (difference := _difference(model, left, settings, Trial(left.groups, SHALLOW))):
        few = settings.until(difference.setting)
        if _difference(model, left, few, NOTHING):
            if difference.setting.training:  # it trains by the hour
                settings = settings.without({difference.setting.words: ""})
                continue
            raise InputError(
                f"two runs of the network on the same inputs don't agree ({difference.setting.words}), so no "
                "cut of it can be proven; make its forward pass deterministic, and let it leave its inputs "
                "as they are"
            )
        culprit = _culprit(Trial(left.groups, SHALLOW), partial(_agrees, model, left, few))
        left = left.without({culprit.name: f"{_WRONG} ({difference.setting.words})"})
    return left


def _agrees(model: nn.Module, groups: ChannelGroups, settings: Settings, trial: Trial) -> bool:
    return _difference(model, groups, settings, trial) is None


def _difference(
    model: nn.Module, groups: ChannelGroups, settings: Settings, trial: Trial
) -> Difference | None:
    plan = _plan(groups, trial)
    try:
        cut = shrink(model, groups, plan)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # of a group that can't be cut so
        return Difference(settings.tried[0], UNLIKE, IN_FLOAT64)
    return compare(Pair(model, groups, plan.keep, cut), settings).difference


def _right_in_single(
    model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]
) -> ChannelGroups | None:
    """Return the groups that come out right in the network's own float32; None where that can't be told."""
    model, right = _tried(copy.deepcopy(model), groups, inputs)
    if right:
        return groups
    left = groups.without(dict.fromkeys(_wrong_at_home(model, groups, inputs), _WRONG))
    return left if _verdict(model, left, inputs).failing is None else None


def _in(
    dtype: torch.dtype, model: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return in_precision(copy.deepcopy(model), dtype), tuple(
        x.to(dtype) if x.is_floating_point() else x for x in inputs
    )


def _tried(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, bool]:
    """Return a network whose outputs vary, redrawn if its own don't, and whether its cuts come out right."""
    verdict = _verdict(model, groups, inputs)
    if verdict.failing is None and not verdict.varied:
        # As where the last layer begins at zero: any cut would come out right.
        model = begun_again(model, lambda net: _varies(net, inputs))
        verdict = _verdict(model, groups, inputs)
    return model, verdict.failing is None


def _smaller(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Take the fewest pixels that the network runs on."""
    *fewer, _ = thinned(inputs)
    return next((few for few in fewer if _runs(model, groups, few)), inputs)


def _runs(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> bool:
    # Through its gates, so that what a forward pass writes to buffers it writes to copies.
    gated = gate_channels(model, groups)
    try:
        with torch.no_grad(), evaluating(model):
            gated(gated.ones(requires_grad=False), inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # it counts on its size
        return False
    return True


def _is_large(model: nn.Module) -> bool:
    return not fits_double(model) and all(x.dtype == torch.float32 for x in model.parameters())


def _varies(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    with torch.no_grad(), evaluating(model, "batch"):
        return _vary(model(*inputs))


def _vary(outputs: object) -> bool:
    """Tell whether any output varies over the inputs, or none could."""
    tensors = [x for x in tensors_of(outputs) if x.is_floating_point()]
    several = [x for x in tensors if x.dim() and len(x) > 1 and x.numel()]
    return not several or any(bool(x.std(0).mean() > 1e-6 * x.abs().max()) for x in several)


def _wrong_at_home(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> list[str]:
    """Name the groups that don't come out right in the smallest module that holds all of their layers.

    A block alone is run in a moment, where bisection runs the whole network again and again: of a network
    with attentions that can't lose heads, all of them are found so. What is wrong in float32 is asked again
    in float64.
    """
    homes = {group.name: _home(group) for group in groups}
    calls = _calls(model, {home for home in homes.values() if home}, inputs)
    wrong = []
    for group in groups:
        home = homes[group.name]
        while home and home not in calls:  # a list of modules is never called itself
            home = home.rpartition(".")[0]
        if home and not _right_alone(model.get_submodule(home), _inside(group, home), calls[home]):
            wrong.append(group.name)
    return wrong


def _right_alone(block: nn.Module, alone: ChannelGroups, inputs: tuple[Tensor, ...]) -> bool:
    trials = [Trial(alone.groups, shares) for shares in (SHALLOW, DEEP)]
    if all(_equal(block, alone, inputs, trial) for trial in trials):
        return True
    if real_parameter(block).dtype == torch.float64:
        return False
    exact, doubles = _in(torch.float64, block, inputs)
    return all(_equal(exact, alone, doubles, trial) for trial in trials)


def _home(group: ChannelGroup) -> str:
    """The module that holds every layer, parameter and attribute of a group."""
    names = [c.layer for c in (*group.producers, *group.consumers, *group.carriers)]
    names += [row.tensor for row in group.loose]
    owners = [name.split(".")[:-1] for name in names] + [row.module.split(".") for row in group.sizes]
    common = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*owners, strict=False))
    return ".".join(parts[0] for parts in common)


def _calls(model: nn.Module, names: set[str], inputs: tuple[Tensor, ...]) -> dict[str, tuple[Tensor, ...]]:
    """Run the network once and return the positional arguments of some modules and of those around them."""
    around = {name[: end.start()] for name in names for end in re.finditer(r"\.|$", name)}
    found: dict[str, tuple[Tensor, ...]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            if not kwargs:
                found.setdefault(name, tuple(x.clone() if isinstance(x, Tensor) else x for x in args))

        return hook

    with ExitStack() as stack, torch.no_grad(), evaluating(model, "batch"):
        for name in around:
            hook = model.get_submodule(name).register_forward_pre_hook(note(name), with_kwargs=True)
            stack.callback(hook.remove)
        model(*inputs)
    return found


def _inside(group: ChannelGroup, home: str) -> ChannelGroups:
    """The group alone, as the module that holds it names its layers."""

    def own(name: str) -> str:
        return name.removeprefix(home).removeprefix(".")

    def side(couplings: tuple[Coupling, ...]) -> tuple[Coupling, ...]:
        return tuple(replace(c, layer=own(c.layer)) for c in couplings)

    alone = replace(
        group,
        producers=side(group.producers),
        consumers=side(group.consumers),
        carriers=side(group.carriers),
        loose=tuple(replace(row, tensor=own(row.tensor)) for row in group.loose),
        sizes=tuple(replace(row, module=own(row.module)) for row in group.sizes),
    )
    return ChannelGroups((alone,), (), {c.layer: len(c.channels) for c in alone.producers}, ())


@dataclass(frozen=True)
class Verdict:
    """What trials said.

    Attributes:
        failing: one that went wrong, or None.
        varied: whether outputs varied over the inputs, without which nothing could go wrong.
    """

    failing: Trial | None
    varied: bool


def _verdict(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> Verdict:
    """Try a cut of all groups and one of about every other one.

    Of some alone, since a cut may come out right only beside another one. These lose more than half, since
    code may count on a half; where all do, nothing passes any more and no fault would show.
    """
    varied = not len(groups)
    for trial in (Trial(groups.groups, SHALLOW), _some(groups)):
        if not trial.groups:
            continue
        outputs = _outputs(model, groups, inputs, trial)
        if outputs is None or not _close(*outputs):
            return Verdict(trial, True)
        varied = varied or _vary(outputs[0])
    return Verdict(None, varied)


def _some(groups: ChannelGroups) -> Trial:
    """Cut deep into about every other group."""
    generator = torch.Generator().manual_seed(1)
    fewer = tuple(group for group in groups if torch.rand((), generator=generator) < 0.5)
    return Trial(fewer or groups.groups[:1], DEEP)


def _culprit(failing: Trial, equal: Callable[[Trial], bool]) -> ChannelGroup:
    """Return the last group of the shortest prefix that goes wrong."""
    right, wrong = 0, len(failing.groups)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if equal(replace(failing, groups=failing.groups[:middle])):
            right = middle
        else:
            wrong = middle
    return failing.groups[wrong - 1]


def _equal(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...], trial: Trial) -> bool:
    """Tell whether cutting some of the groups equals closing their gates."""
    outputs = _outputs(model, groups, inputs, trial)
    return outputs is not None and _close(*outputs)


def _outputs(
    model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...], trial: Trial
) -> tuple[Any, Any] | None:
    """Return what the cut network puts out, and what closed gates do; None where one of them can't run."""
    plan = _plan(groups, trial)
    gated = renormalised(gate_channels(model, groups), groups)
    like = real_parameter(model)
    gates = {name: keep.to(like.device, like.dtype) for name, keep in plan.keep.items()}
    try:
        small = shrink(model, groups, plan)
        with torch.no_grad(), doubles_kept(), evaluating(model, "batch"), evaluating(small, "batch"):
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
    return _BOUNDS[torch.float64 if torch.float64 in dtypes else torch.float32].agree(distance)


def _plan(groups: ChannelGroups, trial: Trial) -> Plan:
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
