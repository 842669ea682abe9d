"""What a network offers, and whether its cuts are right."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups, channel_groups
from structprune.nn.batch_norm import evaluating
from structprune.proofs.trial_cut import verified_groups
from structprune.pruning.budget import Budget, Plan, reachable, select
from structprune.pruning.gates import gate_channels
from structprune.pruning.surgery import regrouped, shrink


def offered(model: nn.Module, x: Tensor) -> tuple[ChannelGroups, dict[str, int]]:
    """Groups that a trial cut bears out, and how many outputs of each layer are in them."""
    groups = verified_groups(model, channel_groups(model, x), (x,))
    nodes: dict[str, int] = {}
    for coupling in (c for g in groups for c in g.producers):
        nodes[coupling.layer] = nodes.get(coupling.layer, 0) + len(coupling.channels)
    return groups, nodes


def random_plan(groups: ChannelGroups, remove: float, seed: int) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    return select({g.name: torch.rand(g.size, generator=generator) for g in groups}, groups, Budget(remove))


def gap(model: nn.Module, small: nn.Module, groups: ChannelGroups, plan: Plan, x: Tensor) -> float:
    """How far the cut network is from closed gates, in spreads of its outputs."""
    gates = {name: keep.to(x.dtype) for name, keep in plan.keep.items()}
    with torch.no_grad(), evaluating(model), evaluating(small):
        closed, cut, whole = gate_channels(model, groups)(gates, (x,)), small(x), model(x)
    assert float((whole - cut).abs().max()) > 1e-4 * float(whole.std(0).mean()), "the cut took nothing away"
    return float((closed - cut).abs().max() / cut.std(0).mean())


def assert_cut_right(model: nn.Module, x: Tensor, groups: ChannelGroups, remove: float = 0.3) -> None:
    """Cut twice, the second time what is left of the first, and compare with closed gates."""
    model, x = copy.deepcopy(model).double().eval(), x.double()
    plan = random_plan(groups, remove, 0)
    small = shrink(model, groups, plan)
    assert gap(model, small, groups, plan, x) < 1e-9
    left = regrouped(groups, plan)
    if reachable(left, Budget(0.0)) >= 0.2:
        again = random_plan(left, 0.2, 10)
        if not all(bool(keep.all()) for keep in again.keep.values()):
            assert gap(small, shrink(small, left, again), left, again, x) < 1e-9
