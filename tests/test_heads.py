"""Heads of attentions: found by their number or by their width, with masks, groups of queries and einsum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from structprune.channels import ChannelGroups, channel_groups
from structprune.proofs.trial_cut import verified_groups
from tests.cuts import Cut

WIDTH, HEADS = 24, 6


def offered(groups: ChannelGroups) -> int:
    """How many nodes are in groups."""
    return len({(row.layer, c) for group in groups for row in group.producers for c in row.channels})


class Grouped(nn.Module):
    """Knows a head's width, and as Llama how many queries share a key, but not how many heads there are."""

    def __init__(self, keys: int = 3) -> None:
        super().__init__()
        self.head_dim = WIDTH // HEADS
        self.num_key_value_groups = HEADS // keys
        self.q = nn.Linear(WIDTH, WIDTH)
        self.k = nn.Linear(WIDTH, keys * self.head_dim)
        self.v = nn.Linear(WIDTH, keys * self.head_dim)
        self.o = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        k, v = (self._repeated(one) for one in (k, v))
        rotated = torch.cat([-q[..., self.head_dim // 2 :], q[..., : self.head_dim // 2]], -1)
        out = F.scaled_dot_product_attention(q + rotated, k, v)
        joined: Tensor = self.o(out.transpose(1, 2).reshape(*x.shape[:-1], -1))
        return joined

    def _repeated(self, x: Tensor) -> Tensor:
        n, heads, steps, width = x.shape
        many = x[:, :, None].expand(n, heads, self.num_key_value_groups, steps, width)
        return many.reshape(n, heads * self.num_key_value_groups, steps, width)


class Sliceable(nn.Module):
    """As in diffusers: what ends like the width of a head is the number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = self.sliceable_head_dim = HEADS
        self.inner_dim = WIDTH
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=i > 2) for i in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        width = k.shape[-1] // self.heads
        q, k, v = (one.view(len(x), -1, self.heads, width).transpose(1, 2) for one in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        joined: Tensor = self.o(out.reshape(len(x), -1, self.heads * width))
        return joined


class ByEinsum(nn.Module):
    """Batched products by einsum; heads by their number or by their width."""

    def __init__(self, by_width: bool) -> None:
        super().__init__()
        if by_width:
            self.dim_head = WIDTH // HEADS
        else:
            self.n_heads = HEADS
        self.by_width = by_width
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        split = (-1, self.dim_head) if self.by_width else (self.n_heads, -1)
        q, k, v = (layer(x).view(*x.shape[:-1], *split) for layer in (self.q, self.k, self.v))
        shares = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
        joined: Tensor = self.o(torch.einsum("bhij,bjhd->bihd", shares, v).flatten(2))
        return joined


class Fused(nn.Module):
    """Queries, keys and values of a head side by side, as in GPT-NeoX."""

    def __init__(self) -> None:
        super().__init__()
        self.head_size = WIDTH // HEADS
        self.qkv, self.o = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).view(*x.shape[:-1], -1, 3 * self.head_size).transpose(1, 2)
        out = F.scaled_dot_product_attention(*heads.chunk(3, -1))
        joined: Tensor = self.o(out.transpose(1, 2).flatten(2))
        return joined


class Around(nn.Module):
    """An attention between two layers."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.into, self.attention, self.head = nn.Linear(5, WIDTH), attention, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.attention(self.into(x)))
        return out


ATTENTIONS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "grouped": (Grouped, 3),
    "one key a query": (lambda: Grouped(HEADS), HEADS),
    "sliceable": (Sliceable, HEADS),
    "einsum, number": (lambda: ByEinsum(False), HEADS),
    "einsum, width": (lambda: ByEinsum(True), HEADS),
    "fused": (Fused, HEADS),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_heads_leave_whole(name: str) -> None:
    torch.manual_seed(0)
    make, heads = ATTENTIONS[name]
    model, inputs = Around(make()), (torch.randn(4, 7, 5),)
    cut = Cut(model, inputs)
    assert offered(cut.groups) == cut.groups.nodes
    assert heads in {group.size for group in cut.groups}
    assert verified_groups(model, cut.groups, inputs) == cut.groups
    assert cut.proof().passed


def test_queries_leave_with_their_key() -> None:
    torch.manual_seed(0)
    groups = channel_groups(Around(Grouped()), torch.randn(4, 7, 5))
    (heads,) = (group for group in groups if group.name == "attention.q")
    width = WIDTH // HEADS
    gates = {row.layer.rpartition(".")[2]: row.gates for row in heads.producers}
    assert gates["q"] == tuple(c // (2 * width) for c in range(WIDTH))
    assert gates["k"] == gates["v"] == tuple(c // width for c in range(3 * width))


class Masked(nn.Module):
    """nn.MultiheadAttention over words of which some are padding."""

    def __init__(self, padding: bool, causal: bool, weights: bool, reads: bool = False) -> None:
        super().__init__()
        self.reads = reads
        self.words, self.attention = (
            nn.Embedding(9, WIDTH),
            nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
        )
        self.head = nn.Linear(WIDTH, 3)
        self.padding, self.causal, self.weights = padding, causal, weights

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).triu(1)
        out, shares = self.attention(
            x,
            x,
            x,
            key_padding_mask=ids == 0 if self.padding else None,
            attn_mask=later if self.causal else None,
            need_weights=self.weights,
        )
        scored: Tensor = self.head(out * shares.amax((1, 2), keepdim=True) if self.reads else out)
        return scored


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(("padding", "causal"), [(True, False), (False, True), (True, True)])
def test_masks_are_no_reason(padding: bool, causal: bool, weights: bool) -> None:
    torch.manual_seed(0)
    ids = torch.randint(1, 9, (4, 7))
    ids[1, 4:] = ids[3, 5:] = 0
    model = Masked(padding, causal, weights)
    cut = Cut(model, (ids,))
    assert offered(cut.groups) == cut.groups.nodes == 4 * WIDTH
    assert verified_groups(model, cut.groups, (ids,)) == cut.groups
    assert cut.proof().passed


def test_weights_that_are_averaged_over_heads_and_read_are_a_reason() -> None:
    groups = channel_groups(Masked(True, True, True, reads=True), torch.randint(1, 9, (4, 7)))
    assert {group.name for group in groups} == {"attention.out_proj"}
    assert "mean" in {row.layer: row.reason for row in groups.protected}["attention"]


class Windowed(Sliceable):
    """With a mask of windows that is there once for every input, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4  # a trace takes four inputs at most
        self.q, self.k, self.v = (nn.Linear(WIDTH, 16) for _ in range(3))
        self.o, self.bias = nn.Linear(16, WIDTH), nn.Parameter(torch.randn(1, 4, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        n, steps, width = x.shape
        windows = x.reshape(n * 2, steps // 2, width)
        q, k, v = (
            layer(windows).view(n * 2, -1, self.heads, WIDTH // HEADS).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mask = torch.zeros(2, 4, 4)
        mask[1, :, 2:] = -1.0
        mask = mask[None, :, None].expand(n, -1, -1, -1, -1).reshape(n * 2, 1, 4, 4)
        out = F.scaled_dot_product_attention(q, k, v, self.bias.to(mask) + mask)
        joined: Tensor = self.o(out.transpose(1, 2).reshape(n, steps, -1))
        return joined


def test_as_many_inputs_as_heads_are_no_heads() -> None:
    torch.manual_seed(0)
    groups = channel_groups(Around(Windowed()), torch.randn(4, 8, 5))
    assert 4 in {group.size for group in groups}


class Unnamed(ByEinsum):
    """Of heads whose number is known by a name of its own."""

    def __init__(self) -> None:
        super().__init__(by_width=False)
        del self.n_heads

    def __getattr__(self, name: str) -> Any:
        return 3 if name == "n_heads" else super().__getattr__(name)


def test_heads_that_nothing_tells_are_a_reason_with_the_modules_name() -> None:
    groups = channel_groups(Around(Unnamed()), torch.randn(4, 7, 5))
    reasons = {row.layer: row.reason for row in groups.protected}
    assert "heads were not recognised in attention" in reasons["attention.q"]
    assert "num_heads" in reasons["attention.k"]


def test_an_encoder_of_torch_loses_heads_under_a_padding_mask() -> None:
    torch.manual_seed(0)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)
            self.words, self.stack = nn.Embedding(9, WIDTH), nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.head(self.stack(self.words(ids), src_key_padding_mask=ids == 0))
            return out

    ids = torch.randint(1, 9, (4, 7))
    ids[1, 4:] = 0
    model = Encoder().eval()
    groups = verified_groups(model, channel_groups(model, ids), (ids,))
    assert {group.name: group.size for group in groups} == {
        "stack.layers.0.self_attn": HEADS,
        "stack.layers.0.linear1": 32,
        "stack.layers.1.self_attn": HEADS,
        "stack.layers.1.linear1": 32,
    }
