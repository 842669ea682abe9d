"""Trying groups before they are offered: what a trace can't see, a cut shows.

Some couplings leave no mark on tensors: a width that is written into the code, a value computed from a
width, what goes through another library. So all groups are cut at once on a copy, at random, and compared
with closed gates. Where that fails, bisection finds the culprits and protects them.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups, channel_groups
from structprune.channels.scope import EVERYTHING, Scope, picked
from structprune.channels.subsampling import thinned
from structprune.errors import InputError
from structprune.nn.batch_norm import evaluating
from structprune.nn.precision import doubles_kept
from structprune.nn.reinit import reinitialised
from structprune.proofs.comparison.control_flow import branches
from structprune.proofs.comparison.gap import IN_FLOAT64
from structprune.proofs.comparison.influence import exposed
from structprune.proofs.comparison.lockstep import UNLIKE, Difference, Pair, compare, fits_double
from structprune.proofs.comparison.settings import FEW, Settings, settings_of
from structprune.proofs.smallest_module import wrong_alone
from structprune.proofs.trial import (
    NOTHING,
    SHALLOW,
    TrialCut,
    failing_group,
    in_dtype,
    is_equal,
    outputs_vary,
    plan_of,
    verdict_on,
)
from structprune.pruning.gates import gate_channels
from structprune.pruning.surgery import shrink

_SILENT = "closing its gates changes no output, so no cut of it can be proven"
_WRONG = "a trial cut of its channels changes what the network computes"


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
    return verified_groups(model, picked(traced, scope.skip, scope.only), few)


def verified_groups(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> ChannelGroups:
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
    exact, doubles = in_dtype(torch.float64, model, inputs)
    exact, right = _tried(exact, groups, doubles)
    if right:
        return groups
    # Code that makes float32 values in its forward pass, perhaps.
    if not is_equal(exact, groups, doubles, NOTHING):
        exact, doubles = in_dtype(torch.float32, model, inputs)
        if not is_equal(exact, groups, doubles, NOTHING):
            raise InputError(
                "two runs of the network on the same inputs don't agree, or it can't run with batch "
                "statistics, so no cut of it can be proven; make its forward pass deterministic, and "
                "let it leave its inputs as they are"
            )
    left = groups.without(dict.fromkeys(wrong_alone(exact, groups, doubles), _WRONG))
    while (failing := verdict_on(exact, left, doubles).failing) is not None:
        left = left.without({failing_group(failing, partial(is_equal, exact, left, doubles)).name: _WRONG})
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
    while len(left) and (difference := _difference(model, left, settings, TrialCut(left.groups, SHALLOW))):
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
        culprit = failing_group(TrialCut(left.groups, SHALLOW), partial(_agrees, model, left, few))
        left = left.without({culprit.name: f"{_WRONG} ({difference.setting.words})"})
    return left


def _agrees(model: nn.Module, groups: ChannelGroups, settings: Settings, trial: TrialCut) -> bool:
    return _difference(model, groups, settings, trial) is None


def _difference(
    model: nn.Module, groups: ChannelGroups, settings: Settings, trial: TrialCut
) -> Difference | None:
    plan = plan_of(groups, trial)
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
    left = groups.without(dict.fromkeys(wrong_alone(model, groups, inputs), _WRONG))
    return left if verdict_on(model, left, inputs).failing is None else None


def _tried(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, bool]:
    """Return a network whose outputs vary, redrawn if its own don't, and whether its cuts come out right."""
    verdict = verdict_on(model, groups, inputs)
    if verdict.failing is None and not verdict.varied:
        # As where the last layer begins at zero: any cut would come out right.
        model = reinitialised(model, lambda net: _varies(net, inputs))
        verdict = verdict_on(model, groups, inputs)
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
    with torch.no_grad(), doubles_kept(model), evaluating(model, "batch"):
        return outputs_vary(model(*inputs))
