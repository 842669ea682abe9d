"""What the layers of torch.nn are to pruning: which have nodes, and which attributes hold their widths."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

BatchNorm = _BatchNorm
Conv = _ConvNd
ConvTranspose = _ConvTransposeNd
WEIGHTED = (_ConvNd, nn.Linear)
"""Layers that have nodes and prunable weights."""


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) of every conv and linear layer, a layer that is used twice once."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, WEIGHTED))


def batch_norms(model: nn.Module) -> Iterator[tuple[str, BatchNorm]]:
    """Yield (name, layer) of every batch norm that keeps running statistics."""
    for name, layer in model.named_modules():
        if isinstance(layer, BatchNorm) and layer.running_mean is not None:
            yield name, layer


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weight of a conv or linear layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def out_width(layer: nn.Module) -> int:
    """Return the output channels of a conv, or the output features of a linear layer."""
    return int(layer.out_channels if isinstance(layer, Conv) else layer.out_features)  # type: ignore[arg-type]


def in_width(layer: nn.Module) -> int:
    """Return the input channels of a conv, or the input features of a linear layer."""
    return int(layer.in_channels if isinstance(layer, Conv) else layer.in_features)  # type: ignore[arg-type]


def conv_groups(layer: nn.Module) -> int:
    """Return the number of conv groups; 1 for a linear layer."""
    return int(layer.groups) if isinstance(layer, Conv) else 1


def is_depthwise(layer: nn.Module) -> bool:
    """Tell whether every input channel has its own filter, so that a channel goes in and comes out."""
    return (
        isinstance(layer, Conv)
        and layer.groups > 1
        and layer.groups == layer.in_channels == layer.out_channels
    )
