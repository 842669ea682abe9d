"""Widths the slow way: every vector of them tried, and the time of a network read off its own layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups
from structprune.hardware import LEAST_SCORE, LEAST_WIDTH, Layers
from structprune.hardware.profile import DeviceProfile, Kernel, Rates
from structprune.pruning.budget import Budget, Plan, Step, removal_steps


def time_of(model: nn.Module, x: Tensor, profile: DeviceProfile) -> float:
    """Microseconds of all layers of a network as it stands, one after the other."""
    total = 0.0

    def add(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        total += _layer(layer, output, profile)

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    return total


def _layer(layer: nn.Module, output: Tensor, profile: DeviceProfile) -> float:
    if isinstance(layer, nn.Linear):
        weight = layer.in_features * layer.out_features
        return _sum(profile.kernels["linear"].fast, weight, weight, layer.in_features, layer.out_features)
    assert isinstance(layer, nn.Conv2d)
    pixels, taps = output[0, 0].numel(), math.prod(layer.kernel_size)
    if layer.groups == layer.in_channels == layer.out_channels > 1:
        kernel, read, meets = profile.kernels["depthwise"], 1, layer.out_channels
        wide = up(layer.out_channels, kernel.block)
        if meets >= kernel.first and meets % kernel.divisor == 0:
            return _sum(kernel.fast, taps * wide * pixels, taps * wide, pixels, wide * pixels)
        rates = kernel.slow if meets >= kernel.first else kernel.narrow
        out = layer.out_channels if meets >= kernel.first else wide
        return _sum(rates, taps * out * pixels, taps * out, pixels, out * pixels)
    kernel = profile.kernels["1x1" if taps == 1 else "3x3"]
    read, out, groups = layer.in_channels // layer.groups, layer.out_channels // layer.groups, layer.groups
    rates, read, out = _path(kernel, read, out, groups)
    weight = taps * read * out * groups
    return _sum(rates, weight * pixels, weight, read * groups * pixels, out * groups * pixels)


def _path(kernel: Kernel, read: int, out: int, groups: int) -> tuple[Rates, int, int]:
    if groups > 1:
        whole = read % kernel.block == 0 and out % kernel.block == 0
        return (kernel.fast if whole else kernel.slow), read, out
    if read < kernel.first:
        return kernel.narrow, read, up(out, kernel.block)
    if read % kernel.divisor:
        return kernel.slow, read, out
    return kernel.fast, up(read, kernel.block), up(out, kernel.block)


def up(width: int, block: int) -> int:
    """The next multiple."""
    return -(-width // block) * block


def _sum(rates: Rates, multiplied: float, weight: float, read: float, written: float) -> float:
    return (
        rates.layer
        + rates.multiply * multiplied / 1e6
        + rates.weight * weight / 1e3
        + rates.read * read / 1e3
        + rates.written * written / 1e3
    )


def least_fraction(
    layers: Layers, scores: dict[str, Tensor], groups: ChannelGroups, budget: Budget, free: Plan
) -> float:
    """The least time for the score kept, over every vector of widths that may be chosen."""
    import numpy as np

    whole = sum(float(x.sum()) for x in scores.values())
    most = layers.us(np.array([float(free.keep[g.name].sum()) for g in groups]))
    nodes = sum(_gone(free, g.name, g.costs) for g in groups)
    kept = sum(float(scores[name][keep].sum()) for name, keep in free.keep.items())
    best = math.inf
    for vector in product(*(list(_options(groups, scores, budget, free, g)) for g in range(len(groups)))):
        if sum(cost for _, cost, _ in vector) != nodes:
            continue
        stays = whole - sum(lost for _, _, lost in vector)
        us = layers.us(np.array([float(width) for width, _, _ in vector]))
        if stays >= LEAST_SCORE * kept and us <= most:
            best = min(best, us / stays)
    return best


def _options(
    groups: ChannelGroups, scores: dict[str, Tensor], budget: Budget, free: Plan, number: int
) -> Iterator[tuple[int, int, float]]:
    """Every width of a group, the nodes and the score that are gone then."""
    group = groups[number]
    least = LEAST_WIDTH * int(free.keep[group.name].sum())
    gone: list[Step] = []
    for step in (None, *removal_steps(group, scores[group.name], budget)):
        gone += [step] if step else []
        channels = [c for each in gone for c in each.channels]
        if group.size - len(channels) >= least:
            lost = float(scores[group.name][channels].sum())
            yield group.size - len(channels), sum(each.cost for each in gone), lost


def _gone(plan: Plan, name: str, costs: tuple[int, ...]) -> int:
    return sum(cost for cost, keep in zip(costs, plan.keep[name].tolist(), strict=True) if not keep)
