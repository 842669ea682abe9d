"""Small networks, one for each way to wire layers, in a line or two each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

IMAGE = (3, 8, 8)
Run = Callable[[Any, Tensor], Any]


class Wired(nn.Module):
    """Layers by name, and a function that wires them."""

    def __init__(self, run: Run, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


@dataclass(frozen=True)
class Layout:
    """How to build a network, and the shape of one input."""

    build: Callable[[], Wired]
    shape: tuple[int, ...] = IMAGE

    def inputs(self, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
        generator = torch.Generator().manual_seed(4)
        return torch.randn(count, *self.shape, generator=generator, dtype=dtype)


@dataclass(frozen=True)
class Refused:
    """A layout with a layer that must not be cut, and a word of the reason."""

    layout: Layout
    layer: str
    reason: str


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


def pooled(maps_NCHW: Tensor) -> Tensor:
    return maps_NCHW.mean((2, 3))


def through(*names: str) -> Run:
    """Run layers one after the other with ReLU in between, pool, and end with the head."""

    def run(s: Any, x: Tensor) -> Tensor:
        for name in names:
            x = torch.relu(getattr(s, name)(x))
        out: Tensor = s.head(pooled(x))
        return out

    return run


def between(operation: Callable[[Tensor], Tensor], inputs: int = 8) -> Layout:
    """An operation between two convolutions, of 8 channels and of ``inputs``."""

    def run(s: Any, x: Tensor) -> Tensor:
        out: Tensor = s.head(pooled(s.b(operation(s.a(x)))))
        return out

    return Layout(lambda: Wired(run, a=conv(3, 8), b=conv(inputs, 6), head=nn.Linear(6, 3)))
