"""Networks as people bring them: cut by a half, or as far as they go, and equal to their closed gates."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from structprune.channels import channel_groups
from structprune.cli.runs.network import read_network
from structprune.proofs.closed_gates import closed_gates
from structprune.proofs.trial_cut import verified_groups
from structprune.pruning.budget import Budget, reachable, select
from structprune.pruning.surgery import shrink

# Network, input size where its own is large, and the fraction of nodes that can go at least.
NETWORKS: dict[str, tuple[tuple[int, int, int] | None, float]] = {
    "shufflenet_v2_x1_0": ((3, 64, 64), 0.63),
    "squeezenet1_1": ((3, 64, 64), 0.9),
    "mobilenet_v3_large": ((3, 64, 64), 0.9),
    "deeplabv3_mobilenet_v3_large": ((3, 64, 64), 0.9),
    "convnext_tiny": ((3, 64, 64), 0.6),
    "swin_t": ((3, 64, 64), 0.4),
    "timm:ghostnet_100": ((3, 64, 64), 0.4),
    "timm:vit_tiny_patch16_224": (None, 0.6),
    "timm:edgenext_xx_small": ((3, 64, 64), 0.5),
    "benchmarks.networks:unet": (None, 0.9),
    "benchmarks.networks:bert": (None, 0.6),
    "benchmarks.networks:lstm": (None, 0.9),
    "benchmarks.networks:bilstm": (None, 0.9),
    "benchmarks.networks:gru": (None, 0.9),
    "benchmarks.networks:groupnorm_resnet": (None, 0.9),
    "benchmarks.networks:conv1d": (None, 0.9),
    "benchmarks.networks:conv3d": (None, 0.9),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_cut_as_its_closed_gates_say_and_trains(name: str) -> None:
    needed = {"timm:": "timm", "benchmarks.networks:bert": "transformers"}
    for start, package in needed.items():
        if name.startswith(start) and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'structprune[{package}]'")
    size, least = NETWORKS[name]
    network = read_network(name, input_size=size)
    model, (x,) = network.model, network.example
    inputs = (torch.cat([x, x.flip(-1)])[:6],)
    groups = verified_groups(model, channel_groups(model, (x,)), (x,))
    assert {row.layer for row in groups.protected}.isdisjoint(c.layer for g in groups for c in g.producers)
    most = reachable(groups, Budget(0.0))
    assert most >= least
    generator = torch.Generator().manual_seed(3)
    scores = {g.name: torch.rand(g.size, generator=generator) for g in groups}
    plan = select(scores, groups, Budget(min(0.5, most - 1e-3)))
    small = shrink(model, groups, plan).eval()
    proof = closed_gates(model, small, groups, plan, inputs)
    assert proof.passed, proof
    _trains(small.train(), inputs[0])


def _trains(model: nn.Module, x: Tensor) -> None:
    outputs = [y for y in tree_leaves(model(x)) if isinstance(y, Tensor) and y.requires_grad]
    torch.stack([y.square().mean() for y in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
