"""Groups tried by themselves, each in the smallest module that holds it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroup, ChannelGroups, Coupling
from structprune.nn.batch_norm import evaluating
from structprune.nn.precision import doubles_kept, real_parameter
from structprune.proofs.trial import DEEP, SHALLOW, TrialCut, in_dtype, is_equal


def wrong_alone(model: nn.Module, groups: ChannelGroups, inputs: tuple[Tensor, ...]) -> list[str]:
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
    trials = [TrialCut(alone.groups, shares) for shares in (SHALLOW, DEEP)]
    if all(is_equal(block, alone, inputs, trial) for trial in trials):
        return True
    if real_parameter(block).dtype == torch.float64:
        return False
    exact, doubles = in_dtype(torch.float64, block, inputs)
    return all(is_equal(exact, alone, doubles, trial) for trial in trials)


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

    with ExitStack() as stack, torch.no_grad(), doubles_kept(model), evaluating(model, "batch"):
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
