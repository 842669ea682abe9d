"""Large images with fewer pixels: which channels belong together shows in small ones too, and much sooner."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

WIDE = 320
"""Pixels above which some of them are enough."""

STRIDES = (4, 2)
"""Of which pixels are taken, the fewest first."""


def thinned(inputs: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield inputs with every fourth pixel of large images, with every second one, and as they are.

    A network may count on the size of its images, so that whoever takes fewer tries the next where it fails.

    Args:
        inputs: positional inputs; images are those of shape (N, C, H, W) with floating-point values.
    """
    if any(map(_is_wide, inputs)):
        for stride in STRIDES:
            yield tuple(x[..., ::stride, ::stride] if _is_wide(x) else x for x in inputs)
    yield inputs


def _is_wide(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_floating_point() and min(x.shape[-2:]) > WIDE
