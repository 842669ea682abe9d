"""The networks that torchvision lacks, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from structprune.models.definitions.cifar_resnet import (
    CifarResNet,
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
)
from structprune.models.definitions.earlycrop_vgg16 import EarlyCropVGG16, earlycrop_vgg16
from structprune.models.definitions.mlp import MLP, mlp
from structprune.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("network")
for _factory in (cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56, earlycrop_vgg16, mlp):
    MODELS.register(_factory.__name__)(_factory)

__all__ = [
    "MLP",
    "MODELS",
    "CifarResNet",
    "EarlyCropVGG16",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "earlycrop_vgg16",
    "mlp",
]
