"""Two networks called side by side under every setting: the dense one with closed gates and the cut one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups
from structprune.comparison.gap import IN_FLOAT32, IN_FLOAT64, Bounds, Gap, gap
from structprune.comparison.settings import Setting, Settings, called_in, cast, kept_in, nudged
from structprune.errors import InputError
from structprune.gates import gate_channels, renormalised
from structprune.outputs import tensors_of

SCREEN = Bounds(1e-5, 1e-4)
"""Bounds in float32 below which nothing is wrong; what exceeds them is compared once more in float64."""

_AMPLIFIED, _MOST_NOISE = 100.0, 1e-5
"""How many times its own noise a network may be off, and the noise beyond which a setting says nothing."""

_SLICE = 1e-3
"""Error of a slice of the outputs, in its own spread, above which float64 is asked."""

UNLIKE = Gap(torch.inf, torch.inf, torch.inf)
"""Gap of outputs that can't be compared: one network raises, or the shapes differ."""


@dataclass(frozen=True)
class Pair:
    """A dense network with some gates closed, and the cut network that must compute the same.

    Attributes:
        dense: the network before the cut.
        groups: its groups.
        keep: group -> (C,) bool, which gates are open.
        cut: the network after it.
    """

    dense: nn.Module
    groups: ChannelGroups
    keep: Mapping[str, Tensor]
    cut: nn.Module

    def to(self, dtype: torch.dtype) -> Pair:
        """Fresh copies in another precision."""
        dense, cut = (copy.deepcopy(model).to(dtype) for model in (self.dense, self.cut))
        return Pair(dense, self.groups, self.keep, cut)

    def closed(self) -> AbstractContextManager[None]:
        """Let the dense network itself, a copy, run with its gates closed while the block runs."""
        gated = renormalised(gate_channels(self.dense, self.groups), self.groups)
        like = next(self.dense.parameters())
        return gated.closing({name: keep.to(like.device, like.dtype) for name, keep in self.keep.items()})


@dataclass(frozen=True)
class Difference:
    """A setting under which two networks differ, and by how much."""

    setting: Setting
    gap: Gap
    bounds: Bounds


def first_difference(pair: Pair, settings: Settings) -> Difference | None:
    """Where the cut network first differs from closed gates, or None.

    Fresh copies of both networks are called under every setting, in one order, in float32 and, where they
    seem to differ so, in float64. Both have been called as often and with the same inputs then, so that what
    they count or remember of a call shows.

    Args:
        pair: both networks; they are left as they are.
        settings: what to try.
    """
    single = pair.to(torch.float32).dense
    runs_in_single = (
        not settings.tried or called_in(single, single, cast(settings.tried[0], torch.float32)) is not None
    )
    if runs_in_single and _differing(pair, settings, torch.float32, SCREEN) is None:
        return None
    exact = pair.to(torch.float64)
    if (
        settings.tried
        and called_in(exact.dense, exact.dense, cast(settings.tried[0], torch.float64)) is not None
    ):
        return _differing(pair, settings, torch.float64, IN_FLOAT64)
    return _differing(pair, settings, torch.float32, IN_FLOAT32)


def _differing(pair: Pair, settings: Settings, dtype: torch.dtype, bounds: Bounds) -> Difference | None:
    exact = dtype == torch.float64
    fresh = pair.to(dtype)
    with fresh.closed():
        for setting in map(partial(cast, dtype=dtype), settings.tried):
            expected = kept_in(fresh.dense, fresh.dense, setting)
            if expected is None:  # with these gates closed it does not run so, and says nothing
                continue
            outputs = kept_in(fresh.cut, fresh.cut, setting)
            distance = _distance(outputs, expected)
            if not exact and bounds.agree(distance) and _worst_slice(outputs, expected) > _SLICE:
                return Difference(setting, distance, bounds)
            if not bounds.agree(distance) and not (exact and _is_rounding(fresh.dense, setting, distance)):
                return Difference(setting, distance, bounds)
    return None


def _is_rounding(closed: nn.Module, setting: Setting, distance: Gap) -> bool:
    """Tell whether two networks are no further apart than the dense one is from itself, rounded otherwise.

    Batch norm over a handful of values, as in training mode on few inputs, makes of rounding what it likes.
    """
    moved = replace(setting, inputs=tuple(nudged(x) for x in setting.inputs))
    copies = [_copied(closed) for _ in range(2)]
    outputs, others = (kept_in(net, net, each) for net, each in zip(copies, (setting, moved), strict=True))
    noise = _distance(outputs, others).error
    return noise > _MOST_NOISE or distance.error < _AMPLIFIED * noise


def _copied(model: nn.Module) -> nn.Module:
    """Copy a network that may keep results of a call, whose graphs no copy takes along."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(module)[name] = value.detach()
    return copy.deepcopy(model)


def _worst_slice(outputs: Any, expected: Any) -> float:
    """Largest error of a slice of the outputs, in its own spread: of scores beside boxes in pixels, say."""
    pairs = zip(tensors_of(outputs), tensors_of(expected), strict=True)
    real = [(a.detach(), b.detach()) for a, b in pairs if a.is_floating_point() and a.dim() > 1 and len(a)]
    return max((_of_slices(a, b, dim) for a, b in real for dim in {1, a.dim() - 1}), default=0.0)


def _of_slices(a: Tensor, b: Tensor, dim: int) -> float:
    over = [d for d in range(a.dim()) if d != dim]
    least = 1e-5 * b.abs().max() + torch.finfo(b.dtype).tiny
    return float(((a - b).abs().amax(over) / b.std(over, correction=0).clamp(min=least)).max())


def _distance(outputs: Any, expected: Any) -> Gap:
    try:
        return UNLIKE if outputs is None else gap(expected, outputs)
    except InputError:
        return UNLIKE
