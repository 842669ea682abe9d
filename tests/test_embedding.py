"""The width of an embedding, cut along LayerNorms where that is asked for, and how far off that is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import structprune
from structprune.channels import ChannelGroups, channel_groups
from structprune.proofs.trial import SHALLOW, TrialCut, plan_of
from structprune.proofs.trial_cut import verified_groups
from structprune.pruning.budget import Budget, removal_steps
from structprune.pruning.gates import gate_channels, renormalised
from structprune.pruning.surgery import shrink

WIDTH = 12


class Images(nn.LayerNorm):
    """A LayerNorm over the channels of images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Attention and hidden units around a stream of a fixed width."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=eps), nn.LayerNorm(WIDTH, eps=eps)
        self.attn = nn.MultiheadAttention(WIDTH, 3, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out


class Transformer(nn.Module):
    """Patches, positions, blocks and a head, as small as a ViT can be."""

    def __init__(self, eps: float = 1e-5, affine: bool = True, zero: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.images = Images(WIDTH, eps=eps)
        self.positions = nn.Parameter(torch.randn(1, 4, WIDTH))
        self.blocks = nn.Sequential(Block(eps=eps), Block(eps=eps))
        self.norm = nn.LayerNorm(WIDTH, eps=eps, elementwise_affine=affine)
        self.head = nn.Linear(WIDTH, 5)
        for name, parameter in self.named_parameters():
            if "norm" in name or "bias" in name:
                nn.init.normal_(parameter, 1.0)
        if zero:
            nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.images(self.patches(x)).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.head(self.norm(self.blocks(stream)).mean(1))
        return out


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(6, 3, 8, 8, dtype=torch.float64)


def whole(groups: ChannelGroups) -> bool:
    return any(group.name == "patches" for group in groups)


def test_it_is_offered_only_where_it_is_asked_for(x: Tensor) -> None:
    model = Transformer().double()
    assert not whole(channel_groups(model, x))
    groups = channel_groups(model, x, embedding=True)
    (stream,) = (group for group in groups if group.name == "patches")
    assert stream.size == WIDTH
    assert len(stream.producers) == 5
    assert {c.layer for c in stream.carriers} == {
        name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)
    }
    assert [row.tensor for row in stream.loose] == ["positions"]


@pytest.mark.parametrize("affine", [True, False])
def test_a_cut_is_the_dense_network_with_norms_over_open_channels(x: Tensor, affine: bool) -> None:
    model = Transformer(affine=affine).double().eval()
    groups = channel_groups(model, x, embedding=True)
    plan = plan_of(groups, TrialCut(groups.groups, SHALLOW))
    small = shrink(model, groups, plan)
    gates = {name: keep.double() for name, keep in plan.keep.items()}
    gated = gate_channels(model, groups)
    with torch.no_grad():
        exact, plain, cut = renormalised(gated, groups)(gates, (x,)), gated(gates, (x,)), small(x)
    assert torch.allclose(exact, cut, rtol=1e-12, atol=1e-12)
    assert (plain - cut).abs().max() > 1e-3 * cut.std(0).mean()
    # Nothing closed, nothing changed; and no hook stays behind.
    ones = {name: torch.ones_like(gate) for name, gate in gates.items()}
    with torch.no_grad():
        assert torch.allclose(renormalised(gated, groups)(ones, (x,)), model(x), rtol=1e-12, atol=1e-12)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_an_open_norm_is_a_layer_norm_of_fewer_channels(x: Tensor) -> None:
    """Against the definition, written out."""
    model = Transformer().double()
    groups = channel_groups(model, x, embedding=True)
    keep = torch.arange(WIDTH) % 3 != 0
    gates = {group.name: torch.ones(group.size).double() for group in groups} | {"patches": keep.double()}
    seen = {}

    def note(name: str) -> None:
        module = model.get_submodule(name)
        handles.append(module.register_forward_hook(lambda _, args, out: seen.update({name: out})))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    note("patches")
    note("images")
    try:
        with torch.no_grad():
            renormalised(gate_channels(model, groups), groups)(gates, (x,))
    finally:
        for handle in handles:
            handle.remove()
    left = seen["patches"][:, keep]
    mean, variance = left.mean(1, keepdim=True), left.var(1, correction=0, keepdim=True)
    weight, bias = (p.detach()[keep].reshape(1, -1, 1, 1) for p in (model.images.weight, model.images.bias))
    expected = (left - mean) / (variance + model.images.eps).sqrt() * weight + bias
    assert torch.allclose(seen["images"][:, keep], expected, rtol=1e-12, atol=1e-12)


def test_two_channels_stay_at_least(x: Tensor) -> None:
    groups = channel_groups(Transformer().double(), x, embedding=True)
    (stream,) = (group for group in groups if group.name == "patches")
    assert sum(len(step.channels) for step in removal_steps(stream, torch.zeros(WIDTH), Budget(0.5))) == 10


def test_a_norm_without_eps_holds_the_width(x: Tensor) -> None:
    assert not whole(channel_groups(Transformer(eps=0.0).double(), x, embedding=True))


def test_the_trial_bears_it_out(x: Tensor) -> None:
    model = Transformer()
    groups = channel_groups(model, x.float(), embedding=True)
    assert verified_groups(model, groups, (x.float(),)) == groups


@pytest.mark.parametrize("side", [WIDTH, WIDTH + 1])
def test_images_as_wide_as_they_have_channels(side: int) -> None:
    """A norm that permutes must not be taken to normalise along the image's rows."""
    x = torch.randn(3, 3, side, side)
    model = nn.Sequential(nn.Conv2d(3, WIDTH, 1), Images(WIDTH), nn.Conv2d(WIDTH, 6, 3), nn.Conv2d(6, 4, 3))
    groups = channel_groups(model, x, embedding=True)
    assert [group.name for group in groups] == ["0", "2"]
    assert verified_groups(model, groups, (x,)) == groups


class Affine(nn.LayerNorm):
    """Calls itself a LayerNorm and mixes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class Fused(nn.LayerNorm):
    """Adds before it normalises."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.relu(x) + x)


@pytest.mark.parametrize(("kind", "embedding"), [(Affine, False), (Affine, True), (Fused, True)])
def test_norms_of_the_users_own(kind: type[nn.LayerNorm], embedding: bool) -> None:
    x = torch.randn(4, 5)
    model = nn.Sequential(nn.Linear(5, 8), kind(8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 3))
    groups = channel_groups(model, x, embedding=embedding)
    assert [group.name for group in verified_groups(model, groups, (x,))] == ["0", "3"]


class Named(Transformer):
    """Says how wide it is, and goes by it, as torchvision's ViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_dim = WIDTH

    def forward(self, x: Tensor) -> Tensor:
        y = self.images(self.patches(x))
        stream = y.reshape(len(x), self.hidden_dim, -1).transpose(1, 2) + self.positions
        out: Tensor = self.head(self.norm(self.blocks(stream)).mean(1))
        return out


def test_a_width_that_the_network_remembers_shrinks_along(x: Tensor, tmp_path: Path) -> None:
    inputs = x.float()
    done = structprune.compress(Named(), inputs, nodes=0.5, embedding=True, score="filter_norm", export=False)
    before, after = done.report.widths["patches"]
    assert after < before
    assert vars(done.model)["hidden_dim"] == after
    done.save(tmp_path / "out")
    again = structprune.load(tmp_path / "out", model=Named())
    with torch.no_grad():
        assert torch.equal(again.eval()(inputs), done.model.eval()(inputs))


class Computed(nn.Module):
    """Computes a width that others store."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    @property
    def hidden_dim(self) -> int:
        return self.a.out_features

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).reshape(len(x), self.hidden_dim))
        return out


def test_a_width_that_is_computed_is_left_alone() -> None:
    x = torch.randn(6, 4)
    done = structprune.compress(Computed(), x, nodes=0.5, score="filter_norm", export=False)
    assert done.model.get_submodule("b").in_features == 3


class Doubtful(Transformer):
    """Divides by a width that a cut changes, in front of a head that begins at zero."""

    def forward(self, x: Tensor) -> Tensor:
        stream = self.images(self.patches(x)).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.head(self.blocks(stream).mean(1) / stream.shape[-1])
        return out


def test_a_fault_behind_a_head_of_zeros_is_found(x: Tensor) -> None:
    model = Doubtful(zero=True)
    groups = channel_groups(model, x.float(), embedding=True)
    assert whole(groups)
    before = copy.deepcopy(model.state_dict())
    assert not whole(verified_groups(model, groups, (x.float(),)))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_the_proof_says_how_far_it_is_from_closed_gates(x: Tensor) -> None:
    model, inputs = Transformer(), x.float()
    done = structprune.compress(model, inputs, nodes=0.5, embedding=True, score="filter_norm", export=False)
    proofs = {proof.name: proof for proof in done.report.proofs}
    assert all(proof.passed for proof in proofs.values())
    closed = proofs["closed_gates"]
    assert closed.inexact is not None
    assert closed.inexact > 1e-3
    before, after = done.report.widths["patches"]
    assert after < before == WIDTH
    norm = done.model.get_submodule("norm")
    assert norm.normalized_shape == (after,)
    without = structprune.compress(model, inputs, nodes=0.2, score="filter_norm", export=False)
    assert all(proof.inexact is None for proof in without.report.proofs)


def test_three_heads_are_not_taken_for_queries_keys_and_values(x: Tensor) -> None:
    groups = channel_groups(Transformer().double(), x)
    assert {group.name: group.size for group in groups} == {
        "blocks.0.attn": 3,
        "blocks.0.fc1": 20,
        "blocks.1.attn": 3,
        "blocks.1.fc1": 20,
    }
