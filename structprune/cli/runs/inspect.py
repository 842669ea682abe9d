"""What ``inspect`` estimates: how large a network would be after a cut, none of it scored."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from exporters.probes.flops import count_flops
from structprune.channels import ChannelGroups
from structprune.cli.runs.network import Network
from structprune.pruning.budget import Budget, select
from structprune.pruning.surgery import shrink


@dataclass(frozen=True)
class Size:
    """How large a network is.

    Attributes:
        nodes: the fraction removed.
        parameters: how many are left.
        flops: multiply-adds of one input, or None where they can't be counted.
        disk: bytes of parameters and buffers.
    """

    nodes: float
    parameters: int
    flops: int | None
    disk: int


def estimates(network: Network, groups: ChannelGroups, budget: Budget, most: float) -> list[Size]:
    """Return the sizes with nothing, half of what can go, and all of it removed.

    The same share leaves every group, so that no score is needed; a scored cut removes the same nodes from
    other layers.
    """
    # Just below the most, since the fraction is turned into nodes by rounding.
    fractions = [0.0] if not len(groups) else [0.0, most / 2, most * (1 - 1e-9)]
    return [_size(network, groups, replace(budget, remove=fraction)) for fraction in fractions]


def _size(network: Network, groups: ChannelGroups, budget: Budget) -> Size:
    even = {g.name: torch.arange(g.size, dtype=torch.float64) / g.size for g in groups}
    plan = select(even, groups, budget)
    small = shrink(network.model, groups, plan).eval()
    tensors = (*small.parameters(), *small.buffers())
    try:
        flops: int | None = count_flops(small, tuple(x[:1] for x in network.example))
    except Exception:  # an optional figure, of a forward pass at widths that its code may not expect
        flops = None
    parameters = sum(p.numel() for p in small.parameters())
    return Size(plan.reached, parameters, flops, sum(x.nbytes for x in tensors))
