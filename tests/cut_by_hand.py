"""A basic block cut by hand, and its result folder: what surgery does, without surgery."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from structprune.models import Architecture
from structprune.models.results import save_weights_and_plan, widths_of
from structprune.pruning.budget import Budget, Plan

KEEP = torch.arange(64) % 3 == 0


def cut_inner(model: nn.Module, block: str, keep_C: Tensor) -> nn.Module:
    """Cut the channels between the two convolutions of a basic block, by hand."""
    model = copy.deepcopy(model)
    conv1, bn1, conv2 = (model.get_submodule(f"{block}.{name}") for name in ("conv1", "bn1", "conv2"))
    conv1.weight = nn.Parameter(conv1.get_parameter("weight")[keep_C].detach())
    conv2.weight = nn.Parameter(conv2.get_parameter("weight")[:, keep_C].detach())
    for name in ("weight", "bias"):
        setattr(bn1, name, nn.Parameter(bn1.get_parameter(name)[keep_C].detach()))
    for name in ("running_mean", "running_var"):
        setattr(bn1, name, bn1.get_buffer(name)[keep_C])
    width = int(keep_C.sum())
    for module, attribute in ((conv1, "out_channels"), (bn1, "num_features"), (conv2, "in_channels")):
        setattr(module, attribute, width)
    return model


def plan_of(keep_C: Tensor, gate: str = "layer1.0.conv1") -> Plan:
    return Plan({gate: keep_C}, Budget(0.1), 0.0125)


def resnet18_folder(result: Path, dense: nn.Module) -> Path:
    """A result folder of a resnet18 of 7 classes with 22 of 64 channels left in its first block."""
    result.mkdir()
    architecture = Architecture("torchvision:resnet18", {"num_classes": 7})
    cut = cut_inner(dense, "layer1.0", KEEP)
    save_weights_and_plan(
        result, cut, plan_of(KEEP), architecture, (3, 32, 32), dense_widths=widths_of(dense), name="my_net"
    )
    return result
