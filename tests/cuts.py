"""Tiny networks that are cut, and the faults that a proof must see."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups, channel_groups
from structprune.proofs.closed_gates import closed_gates
from structprune.pruning.budget import Budget, Plan
from structprune.pruning.surgery import shrink
from structprune.report.data import Proof


class Cut:
    """A network before and after every second channel of each group was cut."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.dense, self.inputs = model.eval(), inputs
        self.groups = channel_groups(model, inputs)
        self.plan = every_second(self.groups)
        self.small = shrink(model, self.groups, self.plan).eval()

    def proof(self) -> Proof:
        return closed_gates(self.dense, self.small, self.groups, self.plan, self.inputs)


def every_second(groups: ChannelGroups) -> Plan:
    return Plan({g.name: torch.arange(g.size) % 2 == 0 for g in groups}, Budget(0.5), 0.5)


def like_trained(model: nn.Module) -> nn.Module:
    """Batch norms with scales, shifts and statistics of their own, so that every channel differs."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith(("running_mean", "bias")):
                tensor.normal_(0.0, 0.3)
            elif name.endswith("running_var") or (tensor.dim() == 1 and tensor.is_floating_point()):
                tensor.uniform_(0.5, 1.5)
    return model


class Deep(nn.Module):
    """Many small steps: under fresh statistics every output is its bias to within 1e-10."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4 if i else 3, 4, 3, padding=1) for i in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(5))
        self.head = nn.Linear(4, 3)
        for layer in self.layers:
            nn.init.normal_(layer.get_parameter("weight"), std=1e-3)
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


@torch.no_grad()
def permuted_outputs(small: nn.Module) -> None:
    weight = small.get_parameter("mix.weight")
    weight[[0, 1]] = weight[[1, 0]]


@torch.no_grad()
def permuted_inputs(small: nn.Module) -> None:
    weight = small.get_parameter("mix.weight")
    weight[:, [0, 1]] = weight[:, [1, 0]]


@torch.no_grad()
def permuted_statistics(small: nn.Module) -> None:
    mean = small.get_buffer("bn1.running_mean")
    mean[[0, 1]] = mean[[1, 0]]


@torch.no_grad()
def one_weight_changed(small: nn.Module) -> None:
    small.get_parameter("mix.weight")[0, 0] += 1e-2


@torch.no_grad()
def weight_not_a_number(small: nn.Module) -> None:
    small.get_parameter("head.weight")[0, 0] = torch.nan


@torch.no_grad()
def mean_not_a_number(small: nn.Module) -> None:
    small.get_buffer("bn0.running_mean")[0] = torch.nan


@torch.no_grad()
def constant_output(small: nn.Module) -> None:
    small.get_parameter("head.weight").zero_()


FAULTS = [
    permuted_outputs,
    permuted_inputs,
    permuted_statistics,
    one_weight_changed,
    weight_not_a_number,
    mean_not_a_number,
    constant_output,
]
