"""Small networks and data in files, as users have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from structprune.models.definitions import mlp

TINY = '''
from torch import nn


class FixedWidth(nn.Module):
    """The width of its first layer is written into the code, where no graph sees it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(192, 8)
        self.conv = nn.Conv2d(8, 6, 1)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        maps = self.first(x.flatten(1)).relu().view(-1, 8, 1, 1)
        return self.last(self.conv(maps).relu().flatten(1))


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )
'''
"""Of the module ``tiny`` in the working folder: 20 nodes that can go."""

QUICK = ("--score", "magnitude", "--no-export", "--no-measure")
"""What a test takes that is not about scores, ONNX or measuring."""


def save_mlp(path: Path) -> Path:
    """Save the state dict of a multi-layer perceptron."""
    torch.save(mlp().state_dict(), path)
    return path


def save_images(
    path: Path, shape: tuple[int, int, int], each: int = 40, classes: int = 10, first: int = 0
) -> Path:
    """Save images (H, W, C) of which each carries its own number in its first two pixels."""
    count = each * classes
    images_NHWC = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    images_NHWC[:, 0, 0] = (np.arange(count) // 250)[:, None]
    images_NHWC[:, 0, 1] = (np.arange(count) % 250)[:, None]
    labels_N = np.arange(count) % classes + first
    np.savez(path, images=images_NHWC, labels=labels_N)
    return path
