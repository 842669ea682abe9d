"""Two networks called side by side under every setting: the dense one with closed gates and the cut one."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups
from structprune.errors import InputError
from structprune.nn.layers import batch_norms
from structprune.nn.outputs import tensors_of
from structprune.nn.precision import in_precision, real_parameter
from structprune.proofs.comparison.calls import (
    CHAOS,
    Setting,
    are_finite,
    called_in,
    cast,
    draws,
    kept_in,
    nudged,
)
from structprune.proofs.comparison.gap import IN_FLOAT32, IN_FLOAT64, Bounds, Gap, gap
from structprune.proofs.comparison.settings import Settings
from structprune.pruning.gates import gate_channels, renormalised

SCREEN, SLICE = Bounds(1e-5, 1e-4), 1e-3
"""Bounds in float32 below which nothing is wrong, of all outputs and of a slice of them in its own size.

What exceeds them, and _BLURRED times what rounding does to the dense network itself, is compared in float64.
"""

_BLURRED = 10.0

_AMPLIFIED, _MOST_NOISE = 100.0, 1e-5
"""Times its own noise that a network may be off in float64, and the noise beyond which that says nothing."""

_BOUNDS = {torch.float64: IN_FLOAT64, torch.float32: IN_FLOAT32}

_LARGE = 30_000_000
"""Parameters above which float64 takes gigabytes."""

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
        dense, cut = (in_precision(copy.deepcopy(model), dtype) for model in (self.dense, self.cut))
        return Pair(dense, self.groups, self.keep, cut)

    def closed(self) -> AbstractContextManager[None]:
        """Let the dense network itself, a copy, run with its gates closed while the block runs."""
        gated = renormalised(gate_channels(self.dense, self.groups), self.groups)
        like = real_parameter(self.dense)
        return gated.closing({name: keep.to(like.device, like.dtype) for name, keep in self.keep.items()})


@dataclass(frozen=True)
class Difference:
    """A setting under which two networks differ, and by how much."""

    setting: Setting
    gap: Gap
    bounds: Bounds


@dataclass(frozen=True)
class Comparison:
    """What calling two networks side by side has shown.

    Attributes:
        difference: where they first differ; None where they agree.
        untried: words of settings that say nothing -> why, or "" where the dense network does not run so.
    """

    difference: Difference | None
    untried: Mapping[str, str]


def compare(pair: Pair, settings: Settings) -> Comparison:
    """Compare the cut network with closed gates under every setting.

    Fresh copies of both networks are called under every setting, in one order, in float32 and, where they
    seem to differ so, in float64. Both have been called as often and with the same inputs then, so that what
    they count or remember of a call shows. Settings in which the batch normalises itself come afterwards, on
    copies of their own, since float32 seldom suffices for them.

    Args:
        pair: both networks; they are left as they are.
        settings: what to try.
    """
    of_batch, is_large = settings.of_batch(), not fits_double(pair.dense)
    in_single = is_large or not settings.exact
    if not of_batch.tried or not any(True for _ in batch_norms(pair.dense)):
        return _compare(pair, settings, in_single)
    first = _compare(pair, settings.without({each.words: "" for each in of_batch.tried}), in_single)
    if first.difference is not None:
        return first
    second = _compare(pair, of_batch, in_single=is_large)
    return replace(second, untried={**first.untried, **second.untried})


def fits_double(model: nn.Module) -> bool:
    """Tell whether a network is small enough for float64 where float32 might do, not of gigabytes."""
    return sum(x.numel() for x in model.parameters()) <= _LARGE


def _compare(pair: Pair, settings: Settings, in_single: bool) -> Comparison:
    if in_single and (untried := _agreement(pair, settings)) is not None:
        return Comparison(None, untried)
    judged = (_judged(pair, settings, dtype) for dtype in _BOUNDS)
    nothing = Comparison(None, {setting.words: "" for setting in settings.tried})
    return next((comparison for comparison in judged if comparison is not None), nothing)


def _agreement(pair: Pair, settings: Settings) -> Mapping[str, str] | None:
    """What could not be tried, where both networks agree closely in float32; None where they may differ."""
    untried, blur = {}, _Blur()
    for call in _side_by_side(pair, settings, torch.float32):
        if call.gap is None:
            untried[call.setting.words] = ""
        elif not call.is_within(blur):
            blur = _blur(*_rounded_otherwise(pair, call.setting, torch.float32))
            if not call.is_within(blur):
                return None
    return untried if len(untried) < len(settings.tried) or not untried else None


def _judged(pair: Pair, settings: Settings, dtype: torch.dtype) -> Comparison | None:
    """Compare by the bounds of a precision; None where the dense network does not run in it."""
    untried: dict[str, str] = {}
    for call in _side_by_side(pair, settings, dtype):
        if call.gap is None:
            untried[call.setting.words] = ""
        elif not _BOUNDS[dtype].agree(call.gap):
            noise = _distance(*_rounded_otherwise(pair, call.setting, dtype)).error
            if dtype == torch.float64 and call.gap.error < _AMPLIFIED * noise <= _AMPLIFIED * _MOST_NOISE:
                continue
            why = _excuse(pair, call.setting, noise, dtype)
            if why is None:
                return Comparison(Difference(call.setting, call.gap, _BOUNDS[dtype]), untried)
            untried[call.setting.words] = why
    ran = any(untried.get(setting.words) != "" for setting in settings.tried)
    return Comparison(None, untried) if ran or not settings.tried else None


def _excuse(pair: Pair, setting: Setting, noise: float, dtype: torch.dtype) -> str | None:
    """Reason why a setting says nothing about two networks that differ in it; None where it does."""
    # float32 blurs much, of which only batch norm over a handful of values makes what it likes.
    most = _MOST_NOISE if dtype == torch.float64 else CHAOS if setting.of_batch else math.inf
    if most < noise < math.inf:
        return "rounding decides there"
    is_drawn = setting.training and draws(pair.to(dtype).dense, cast(setting, dtype))
    return "it draws at random there" if is_drawn else None


@dataclass(frozen=True)
class _Blur:
    """What rounding in float32 makes of outputs: an error in their spread, and one of their worst slice."""

    of_spread: float = 0.0
    of_slice: float = 0.0


def _blur(outputs: Any, others: Any) -> _Blur:
    distance = _distance(outputs, others)
    return (
        _Blur(0.0, 0.0)
        if distance is UNLIKE
        else _Blur(distance.error_of_spread, _worst_slice(outputs, others))
    )


@dataclass(frozen=True)
class _Call:
    """How far two networks are apart in a setting; None where it says nothing."""

    setting: Setting
    gap: Gap | None
    worst_slice: float = 0.0

    def is_within(self, blur: _Blur) -> bool:
        """Tell whether the gap stays below the screen, or within what rounding does."""
        bounds = Bounds(SCREEN.error, max(SCREEN.error_of_spread or 0.0, _BLURRED * blur.of_spread))
        most = max(SLICE, _BLURRED * blur.of_slice)
        return self.gap is not None and bounds.agree(self.gap) and self.worst_slice <= most


def _side_by_side(pair: Pair, settings: Settings, dtype: torch.dtype) -> Iterator[_Call]:
    """Call fresh copies of both networks under every setting."""
    fresh = pair.to(dtype)
    with fresh.closed():
        for setting in settings.tried:
            inputs = cast(setting, dtype)
            # What training writes to buffers would be its noise in all that follows.
            call = called_in if setting.training else kept_in
            expected = call(fresh.dense, fresh.dense, inputs)
            if not are_finite(expected):  # with these gates closed it does not run so
                yield _Call(setting, None)
                continue
            outputs = call(fresh.cut, fresh.cut, inputs)
            distance = _distance(outputs, expected)
            yield _Call(setting, distance, 0.0 if distance is UNLIKE else _worst_slice(outputs, expected))


def _rounded_otherwise(pair: Pair, setting: Setting, dtype: torch.dtype) -> list[Any]:
    """What fresh copies of the dense network put out with their gates closed, of inputs rounded in two ways.

    Batch norm over a handful of values, as in training mode on few inputs, makes of rounding what it likes.
    """
    exact = cast(setting, dtype)
    return [_closed_outputs(pair.to(dtype), each) for each in (exact, nudged(exact))]


def _closed_outputs(fresh: Pair, setting: Setting) -> Any:
    with fresh.closed():
        return called_in(fresh.dense, fresh.dense, setting)


def _worst_slice(outputs: Any, expected: Any) -> float:
    """Largest error of a slice of the outputs, in its own size: of scores beside boxes in pixels, say."""
    pairs = zip(tensors_of(outputs), tensors_of(expected), strict=True)
    real = [(a.detach(), b.detach()) for a, b in pairs if a.is_floating_point() and a.dim() > 1 and a.numel()]
    return max((_of_slices(a, b, dim) for a, b in real for dim in {1, a.dim() - 1}), default=0.0)


def _of_slices(a: Tensor, b: Tensor, dim: int) -> float:
    over = [d for d in range(a.dim()) if d != dim]
    least = 1e-5 * b.abs().max() + torch.finfo(b.dtype).tiny
    return float(((a - b).abs().amax(over) / b.abs().amax(over).clamp(min=least)).max())


def _distance(outputs: Any, expected: Any) -> Gap:
    try:
        return UNLIKE if outputs is None else gap(expected, outputs)
    except InputError:
        return UNLIKE
