"""A multilayer perceptron: the smallest network worth pruning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


class MLP(nn.Sequential):
    """Linear layers with ReLU in between; the input is flattened.

    Args:
        widths: units of the input, of every hidden layer and of the output.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


def mlp(
    num_classes: int = 10, input_shape: Sequence[int] = (1, 28, 28), hidden: Sequence[int] = (128, 128)
) -> MLP:
    """A perceptron for classification.

    Args:
        num_classes: outputs.
        input_shape: of one input, (C, H, W) or (features,).
        hidden: units of each hidden layer.

    Example:
        >>> [tuple(weight.shape) for weight in mlp(2, input_shape=(4,)).parameters() if weight.ndim == 2]
        [(128, 4), (128, 128), (2, 128)]
    """
    return MLP((math.prod(input_shape), *hidden, num_classes))
