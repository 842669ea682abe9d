"""Norms of the mean square, and over all channels at once: cut along with an embedding, as LayerNorm is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from structprune.channels import channel_groups
from structprune.nn.layer_norm import open_norms
from structprune.nn.precision import doubles_kept
from structprune.proofs.trial import DEEP, TrialCut, plan_of
from structprune.proofs.trial_cut import verified_groups
from structprune.pruning.gates import gate_channels, renormalised
from structprune.pruning.surgery import shrink

WIDTH = 12


class ScaleNorm(nn.Module):
    """As transformers writes the norms of Llama and T5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        square = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(square + 1e-6))


class HandNorm(nn.Module):
    """A LayerNorm over the channels of images, as ConvNeXt and SAM write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(-1)
        apart = x - x.mean(1, keepdim=True)
        scaled = apart / torch.sqrt(apart.pow(2).mean(1, keepdim=True) + 1e-6)
        return (self.weight[:, None] * scaled + self.bias[:, None]).squeeze(-1)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "RMSNorm": nn.RMSNorm,
    "RMSNorm with eps": lambda width: nn.RMSNorm(width, eps=1e-3),
    "RMSNorm without weight": lambda width: nn.RMSNorm(width, elementwise_affine=False),
    "written": ScaleNorm,
    "written over images": HandNorm,
    "one group": lambda width: nn.GroupNorm(1, width),
    "one group without weight": lambda width: nn.GroupNorm(1, width, affine=False),
    "LayerNorm": nn.LayerNorm,
}


class Stream(nn.Module):
    """A residual stream through a norm."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(8, WIDTH), norm(WIDTH)
        self.up, self.down, self.head = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH), nn.Linear(WIDTH, 5)
        for name, parameter in self.norm.named_parameters():
            nn.init.uniform_(parameter, 0.5, 1.5 if name == "weight" else 0.9)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        out: Tensor = self.head(h + self.down(torch.relu(self.up(self.norm(h)))))
        return out


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(6, 8, dtype=torch.float64)


@pytest.mark.parametrize("name", NORMS)
def test_a_cut_is_the_dense_network_with_norms_over_open_channels(name: str, x: Tensor) -> None:
    model = Stream(NORMS[name]).double().eval()
    assert "embed" not in {group.name for group in channel_groups(model, x)}
    groups = channel_groups(model, x, embedding=True)
    assert {group.name: group.size for group in groups} == {"embed": WIDTH, "up": 20}
    assert groups.nodes == 2 * WIDTH + 20
    assert next(group.least for group in groups) == 2
    assert verified_groups(model, groups, (x,)) == groups
    plan = plan_of(groups, TrialCut(groups.groups, DEEP))
    small = shrink(model, groups, plan)
    gates = {name: keep.double() for name, keep in plan.keep.items()}
    gated = gate_channels(model, groups)
    with torch.no_grad(), doubles_kept(model):
        exact, plain, cut = renormalised(gated, groups)(gates, (x,)), gated(gates, (x,)), small(x)
    assert torch.allclose(exact, cut, rtol=1e-12, atol=1e-12)
    assert (plain - cut).abs().max() > 1e-3 * cut.std(0).mean()


@pytest.mark.parametrize("shape", [(2, WIDTH), (2, WIDTH, 5), (2, WIDTH, 3, 4)])
def test_an_open_group_norm_is_one_of_fewer_channels(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, keep = torch.randn(shape), torch.arange(WIDTH) % 3 != 0
    norm, fewer = nn.GroupNorm(1, WIDTH), nn.GroupNorm(1, int(keep.sum()))
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with torch.no_grad():
        fewer.weight.copy_(norm.weight[keep])
        fewer.bias.copy_(norm.bias[keep])
        with open_norms(norm, {"": keep.float()}):
            opened = norm(x)
    assert torch.allclose(opened[:, keep], fewer(x[:, keep]), atol=1e-6)
    assert not torch.allclose(norm(x)[:, keep], opened[:, keep], atol=1e-3)


def test_means_elsewhere_are_left_alone() -> None:
    """A mean that is over other things than the channels of a norm is what it was."""
    norm = ScaleNorm(4)
    x = torch.randn(3, 5, 4)
    with open_norms(norm, {"": torch.tensor([1.0, 0.0, 1.0, 1.0])}):
        assert torch.equal(x.mean(-1), x.sum(-1) / 4) or torch.allclose(x.mean(-1), x.sum(-1) / 4)
        inside = norm(x)
    assert not torch.allclose(inside, norm(x))


@pytest.mark.parametrize(
    "narrow",
    [
        lambda x: x.float(),
        lambda x: x.to(torch.float32),
        lambda x: x.to(dtype=torch.float32),
        lambda x: x.type(torch.float32),
        lambda x: torch.softmax(x, -1, dtype=torch.float32),
    ],
)
def test_float64_stays_where_it_is_compared_in(narrow: Callable[[Tensor], Tensor], x: Tensor) -> None:
    assert narrow(x).dtype == torch.float32
    with doubles_kept(nn.Linear(1, 1).double()):
        assert narrow(x).dtype == torch.float64
        assert narrow(x.half()).dtype == torch.float32
        assert narrow(torch.arange(3)).dtype == torch.float64
    with doubles_kept(nn.Linear(1, 1)):
        assert narrow(torch.arange(3)).dtype == torch.float32
