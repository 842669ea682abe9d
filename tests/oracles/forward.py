"""The tiny networks once more, as plain functions, with every gate multiplied in by hand.

A gate is named after the first layer, in the order of the forward pass, that produces its channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

Values = Mapping[str, Tensor]
Normalise = Callable[[str, Tensor, Values], Tensor]
"""(batch norm's name, its input, parameters) -> its output."""
Forward = Callable[[Values, Values, Tensor, Normalise], Tensor]
"""(parameters, channel gates, inputs, batch norm) -> outputs."""

EPSILON = 1e-5


def tiny_mlp(v: Values, c: Values, x: Tensor, norm: Normalise) -> Tensor:
    h = torch.relu(linear(x, v["fc1.weight"], v["fc1.bias"]))
    h = torch.relu(linear(h * c["fc1"], v["fc2.weight"], v["fc2.bias"]))
    return linear(h * c["fc2"], v["head.weight"], v["head.bias"])


def tiny_conv_bn(v: Values, c: Values, x: Tensor, norm: Normalise) -> Tensor:
    h = torch.relu(norm("bn1", conv2d(x, v["conv1.weight"], padding=1), v))
    h = conv2d(h * maps(c["conv1"]), v["conv2.weight"], stride=2, padding=1)
    h = torch.relu(norm("bn2", h, v)).mean((2, 3))
    return linear(h * c["conv2"], v["head.weight"], v["head.bias"])


def tiny_residual_concat(v: Values, c: Values, x: Tensor, norm: Normalise) -> Tensor:
    stream = torch.relu(norm("bn0", conv2d(x, v["stem.weight"], padding=1), v))
    inner = norm("bn1", conv2d(stream * maps(c["stem"]), v["residual.weight"], padding=1), v)
    summed = torch.relu(stream + inner)
    side = conv2d(summed * maps(c["stem"]), v["side.weight"])
    joined = torch.cat([summed * maps(c["stem"]), side * maps(c["side"])], dim=1)
    mixed = torch.relu(conv2d(joined, v["mix.weight"], v["mix.bias"])).mean((2, 3))
    return linear(mixed * c["mix"], v["head.weight"], v["head.bias"])


def maps(gate_C: Tensor) -> Tensor:
    return gate_C.reshape(-1, 1, 1)


FORWARDS: dict[str, Forward] = {
    "TinyMLP": tiny_mlp,
    "TinyConvBN": tiny_conv_bn,
    "TinyResidualConcat": tiny_residual_concat,
}
"""Name of a network's class -> the same network by hand."""

GATES: dict[str, dict[str, int]] = {
    "TinyMLP": {"fc1": 6, "fc2": 4},
    "TinyConvBN": {"conv1": 4, "conv2": 6},
    "TinyResidualConcat": {"stem": 4, "side": 3, "mix": 5},
}
"""Name of a network's class -> its channel gates and their sizes."""


def of_the_batch(name: str, x_NCHW: Tensor, v: Values) -> Tensor:
    """Normalise with the mean and the biased variance of what is there."""
    mean_C = x_NCHW.mean((0, 2, 3))
    var_C = x_NCHW.var((0, 2, 3), unbiased=False)
    return affine(name, x_NCHW, v, mean_C, var_C)


def by_statistics(statistics: Values) -> Normalise:
    """Normalise with given running statistics."""

    def norm(name: str, x_NCHW: Tensor, v: Values) -> Tensor:
        mean_C, var_C = statistics[f"{name}.running_mean"], statistics[f"{name}.running_var"]
        return affine(name, x_NCHW, v, mean_C, var_C)

    return norm


@dataclass
class Recorder:
    """Normalises as :func:`of_the_batch` does, and notes means and unbiased variances."""

    statistics: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, name: str, x_NCHW: Tensor, v: Values) -> Tensor:
        self.statistics[f"{name}.running_mean"] = x_NCHW.mean((0, 2, 3))
        self.statistics[f"{name}.running_var"] = x_NCHW.var((0, 2, 3), unbiased=True)
        return of_the_batch(name, x_NCHW, v)


def affine(name: str, x_NCHW: Tensor, v: Values, mean_C: Tensor, var_C: Tensor) -> Tensor:
    whitened = (x_NCHW - maps(mean_C)) / torch.sqrt(maps(var_C) + EPSILON)
    return whitened * maps(v[f"{name}.weight"]) + maps(v[f"{name}.bias"])
