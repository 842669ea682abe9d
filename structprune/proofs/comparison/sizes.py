"""Sizes of images, signals and sequences at which a network is called, the smallest that it takes first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from structprune.choices import BatchNormMode
from structprune.proofs.comparison.calls import Setting, are_finite, called_in, is_chaotic
from structprune.proofs.comparison.gap import Inputs, gap
from structprune.report.data import Branch

SMALLEST = (16, 24, 32, 48, 64, 96, 128, 160, 192)
"""Sides of images that are tried, the smallest first."""

MOST_PIXELS = 4.0
"""How many times the pixels of the given images a setting may take."""

MOST_BOUNDS = 6
"""Sizes and batches that are tried since the code compares with them, of each at most."""

CHEAP = 64
"""Side up to which a size above the given one is tried whether or not the code compares sizes."""

Resize = Callable[[Inputs, float], Inputs]


def varies(model: nn.Module, inputs: Inputs, batch_norm: BatchNormMode) -> bool:
    """Tell whether a network runs on inputs and its outputs vary over them."""
    outputs = called_in(model, model, Setting("", inputs, batch_norm=batch_norm))
    return outputs is not None and gap(outputs, outputs).counts


def resize_of(model: nn.Module, inputs: Inputs, batch_norm: BatchNormMode) -> Resize | None:
    """Way to give a network other sizes, or None where it takes no other."""
    return next((resize for resize in _RESIZES if _takes_sizes(model, inputs, resize, batch_norm)), None)


def smallest(model: nn.Module, inputs: Inputs, resize: Resize, batch_norm: BatchNormMode) -> Inputs:
    """The smallest inputs that the network takes and over which its outputs vary."""
    side = side_of(inputs, resize)
    for size in (s for s in SMALLEST if s < side):
        smaller = resize(inputs, size / side)
        plain = Setting("", smaller, batch_norm=batch_norm)
        if varies(model, smaller, batch_norm) and not (batch_norm == "batch" and is_chaotic(model, plain)):
            return smaller
    return inputs


def other_sizes(example: Inputs, small: Inputs, resize: Resize, flow: Iterable[Branch]) -> Iterator[Setting]:
    """Settings of larger, odd and oblong inputs, and of the sizes that the code compares with."""
    side, least = side_of(example, resize), side_of(small, resize)
    bounds = beyond(flow, side, math.floor(side * MOST_PIXELS**0.5))
    larger = next_side(side) if side <= CHEAP or bounds else next_side(least)
    odd = (side if side < CHEAP else least) + 1  # where that is even: strides round there
    if any(_is_image(x) for x in example):
        long = next_side(least)
        yield Setting(f"size {least} by {long}", _lengthened(small, -1, long / least))
        yield Setting(f"size {long} by {least}", _lengthened(small, -2, long / least))
    for size in dict.fromkeys(s for s in (larger, odd, *bounds) if s not in (side, least)):
        yield Setting(f"size {size}", resize(example, size / side))


def too_large(flow: Iterable[Branch], side: int) -> Iterator[str]:
    """Name sizes that the code compares its inputs' with, and that are not tried since they are too large."""
    most = side * MOST_PIXELS**0.5
    for branch in flow:
        if branch.kind == "shape" and branch.size == side and (branch.bound or 0) + 1 > most:
            yield f"size {branch.bound:g}"


def beyond(flow: Iterable[Branch], size: int, most: int) -> list[int]:
    """Sizes around the bounds that the code compares with, at which a comparison comes out otherwise.

    Args:
        flow: comparisons of sizes, of whatever dimension.
        size: what the dimension in question was when the pass was watched.
        most: beyond that nothing is tried.
    """
    around: list[int] = []
    # Those of the dimension itself, by its size, before what may be a width.
    for branch in sorted(flow, key=lambda each: each.size != size):
        if branch.kind == "shape" and branch.size and branch.bound is not None:
            per_unit = size / branch.size
            bound = branch.bound * per_unit
            around += [
                math.floor(bound) + 1,
                math.ceil(bound) - 1,
                *([round(bound)] if bound == round(bound) else []),
            ]
    return [n for n in dict.fromkeys(around) if 0 < n <= most and n != size][:MOST_BOUNDS]


def side_of(inputs: Inputs, resize: Resize) -> int:
    """The length of what a resize changes."""
    doubled = resize(inputs, 2.0)
    return next(
        (
            size
            for x, y in zip(inputs, doubled, strict=True)
            for size, other in zip(x.shape, y.shape, strict=True)
            if size != other
        ),
        0,
    )


def next_side(side: int) -> int:
    """A somewhat larger side that networks with strides take too."""
    return side + (32 if side % 32 == 0 else 16 if side % 16 == 0 else max(2, side // 2))


def _takes_sizes(model: nn.Module, inputs: Inputs, resize: Resize, batch_norm: BatchNormMode) -> bool:
    side = side_of(inputs, resize)
    if not side:
        return False
    # The half costs less.
    others = (Setting("", resize(inputs, f), batch_norm=batch_norm) for f in (0.5, next_side(side) / side))
    return any(are_finite(called_in(model, model, setting)) for setting in others)


def _is_image(x: Tensor) -> bool:
    return x.dim() >= 4 and x.is_floating_point()


def _resize_images(inputs: Inputs, factor: float) -> Inputs:
    """Other heights and widths, by cutting off or repeating pixels."""
    return tuple(_stretched(x, range(2, x.dim()), factor) if _is_image(x) else x for x in inputs)


def _lengthened(inputs: Inputs, dim: int, factor: float) -> Inputs:
    """Images that are wider than high, or higher than wide."""
    return tuple(_stretched(x, (x.dim() + dim,), factor) if _is_image(x) else x for x in inputs)


def _resize_last(inputs: Inputs, factor: float) -> Inputs:
    """Longer or shorter signals (N, C, T)."""
    return tuple(_stretched(x, (2,), factor) if x.dim() == 3 else x for x in inputs)


def _resize_steps(inputs: Inputs, factor: float) -> Inputs:
    """Longer or shorter sequences: ids (N, T), masks beside them, or features (N, T, F)."""
    return tuple(
        _stretched(x, (1,), factor) if x.dim() == 3 or (x.dim() == 2 and not x.is_floating_point()) else x
        for x in inputs
    )


_RESIZES: tuple[Resize, ...] = (_resize_images, _resize_last, _resize_steps)


def _stretched(x: Tensor, dims: Iterable[int], factor: float) -> Tensor:
    for dim in dims:
        size = max(1, round(x.shape[dim] * factor))
        x = x.index_select(dim, torch.arange(size, device=x.device) % x.shape[dim])
    return x
