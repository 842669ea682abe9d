"""Networks small enough for slow, obvious oracles: a few hundred weights each."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

CLASSES = 3


class TinyMLP(nn.Module):
    """5 -> 6 -> 4 -> 3; 66 weights."""

    input_shape: ClassVar[tuple[int, ...]] = (5,)

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(5, 6)
        self.fc2 = nn.Linear(6, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x_N5: Tensor) -> Tensor:
        hidden_N6 = torch.relu(self.fc1(x_N5))
        hidden_N4 = torch.relu(self.fc2(hidden_N6))
        scores_NK: Tensor = self.head(hidden_N4)
        return scores_NK


class TinyConvBN(nn.Module):
    """Two convolutions with batch norm, pooling, a linear head; 342 weights."""

    input_shape: ClassVar[tuple[int, ...]] = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        maps_N4HW = torch.relu(self.bn1(self.conv1(x_N3HW)))
        maps_N6HW = torch.relu(self.bn2(self.conv2(maps_N4HW)))
        scores_NK: Tensor = self.head(maps_N6HW.mean((2, 3)))
        return scores_NK


class TinyResidualConcat(nn.Module):
    """A residual sum, whose branches share their channels, and a concat, where they don't; 314 weights."""

    input_shape: ClassVar[tuple[int, ...]] = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(4)
        self.residual = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.side = nn.Conv2d(4, 3, 1, bias=False)
        self.mix = nn.Conv2d(7, 5, 1)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        stream_N4HW = torch.relu(self.bn0(self.stem(x_N3HW)))
        summed_N4HW = torch.relu(stream_N4HW + self.bn1(self.residual(stream_N4HW)))
        joined_N7HW = torch.cat([summed_N4HW, self.side(summed_N4HW)], dim=1)
        mixed_N5HW = torch.relu(self.mix(joined_N7HW))
        scores_NK: Tensor = self.head(mixed_N5HW.mean((2, 3)))
        return scores_NK


Tiny: TypeAlias = TinyMLP | TinyConvBN | TinyResidualConcat
NETWORKS: tuple[type[Tiny], ...] = (TinyMLP, TinyConvBN, TinyResidualConcat)


def example(network: type[Tiny], batch: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random inputs, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, *network.input_shape, generator=generator, dtype=dtype)
