"""A small training task that every method can be run on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from structprune.data import Batches, ImageSet, to_batches
from structprune.scoring.samples import Samples
from structprune.scoring.sampling import Batch, mini_batches_of
from structprune.training import Recipe, Session
from structprune.training.methods import METHODS


class SmallResNet(nn.Module):
    """A stem, two residual blocks and a head; every conv has a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.one, self.two = self._block(8), self._block(8)
        self.head = nn.Linear(8, 3)

    @staticmethod
    def _block(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(width, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x)).relu()
        h = (h + self.one(h)).relu()
        h = (h + self.two(h)).relu()
        scores: Tensor = self.head(h.mean((2, 3)))
        return scores


def colours(count: int, seed: int = 0, batch_size: int = 16) -> Batches:
    """Images of three classes: which colour is the brightest."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 128, (count, 8, 8, 3), dtype=np.uint8)
    pixels[np.arange(count), :, :, labels] += 60
    images = ImageSet(pixels, labels, ("red", "green", "blue"), "colours")
    return to_batches(images, size=(3, 8, 8), mean=(0.3,) * 3, std=(0.2,) * 3, batch_size=batch_size)


def session(method: str, remove: float = 0.5, epochs: int = 6, **options: Any) -> Session:
    """A training of the small network on the small task."""
    torch.manual_seed(0)
    learn = colours(48)
    known = METHODS[method]
    chosen = Session(
        model=SmallResNet(),
        example=(torch.zeros(2, 3, 8, 8),),
        name=method,
        method=known,
        remove=remove if known.unit else 0.0,
        epochs=epochs,
        recipe=Recipe(lr=0.05, batch_size=16),
        train=learn,
        samples=Samples(
            mini_batches_of([Batch((x,), y) for x, y in learn]),
            functional.cross_entropy,
            how="colours",
            classes=True,
        ),
        validation=colours(12, seed=1),
        steps=4 if known.fractions == "exponential" else None,
        draws=2,
    )
    return replace(chosen, **options)
