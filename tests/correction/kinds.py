"""One layer of every kind that can be refitted, with an input for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Kind:
    """A layer and the shape of its input."""

    layer: Callable[[], nn.Module]
    shape: tuple[int, ...]


KINDS: Mapping[str, Kind] = {
    "linear": Kind(lambda: nn.Linear(5, 3), (9, 5)),
    "tokens": Kind(lambda: nn.Linear(5, 3, bias=False), (4, 7, 5)),
    "conv1d": Kind(lambda: nn.Conv1d(4, 3, 3), (3, 4, 9)),
    "conv2d": Kind(lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False), (3, 4, 6, 5)),
    "conv3d": Kind(lambda: nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1)), (2, 2, 3, 4, 5)),
    "strided": Kind(lambda: nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 2)), (3, 4, 7, 6)),
    "dilated": Kind(lambda: nn.Conv2d(4, 6, 3, dilation=(2, 1), padding=2), (3, 4, 6, 7)),
    "grouped": Kind(lambda: nn.Conv2d(4, 6, 3, groups=2), (3, 4, 5, 5)),
    "depthwise": Kind(lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1), (3, 4, 5, 5)),
    "multiplied": Kind(lambda: nn.Conv2d(4, 8, 3, groups=4), (3, 4, 5, 5)),
    "same": Kind(lambda: nn.Conv2d(3, 4, (4, 3), padding="same", dilation=(1, 2)), (3, 3, 6, 6)),
    "valid": Kind(lambda: nn.Conv2d(3, 4, 2, padding="valid"), (3, 3, 6, 6)),
    "circular": Kind(lambda: nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="circular"), (3, 3, 6, 5)),
    "reflect": Kind(lambda: nn.Conv2d(3, 4, 5, padding=2, padding_mode="reflect"), (3, 3, 6, 5)),
    "replicate": Kind(lambda: nn.Conv2d(3, 4, 3, padding=2, padding_mode="replicate"), (3, 3, 6, 5)),
    "transposed1d": Kind(lambda: nn.ConvTranspose1d(4, 3, 4, stride=2, padding=1), (3, 4, 6)),
    "transposed2d": Kind(
        lambda: nn.ConvTranspose2d(4, 6, (2, 3), stride=(2, 3), output_padding=(1, 0), bias=False),
        (3, 4, 4, 3),
    ),
    "transposed grouped": Kind(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, dilation=2, groups=2), (3, 4, 3, 4)
    ),
    "transposed3d": Kind(lambda: nn.ConvTranspose3d(2, 3, 2, padding=1), (2, 2, 3, 3, 4)),
}
