"""nn.MultiheadAttention with fewer heads than its width has room for.

torch computes a head's width from the embedding's, and holds its inputs against that. Once heads or inputs
are gone that is wrong, so the module gets a class that goes by its own ``head_dim`` and weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class FewerHeads(nn.MultiheadAttention):
    """Attention of ``num_heads`` heads of ``head_dim``, whatever ``embed_dim`` is.

    Made by :func:`fit_heads` of a module that lost heads; arguments and results are those of
    ``nn.MultiheadAttention``.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; see ``nn.MultiheadAttention.forward``."""
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        batched = query.dim() == 3
        inputs = [self._batch_first(x, batched) for x in (query, key, value)]
        q, k, v = (
            self._heads(functional.linear(x, w, b)) for x, w, b in zip(inputs, weights, biases, strict=True)
        )
        mask = self._mask(attn_mask, key_padding_mask, q)
        scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
        shares = (scores if mask is None else scores + mask).softmax(-1)
        dropped = functional.dropout(shares, self.dropout, self.training)
        joined = self.out_proj((dropped @ v).transpose(1, 2).flatten(2))
        out = joined if self.batch_first and batched else joined.transpose(0, 1)
        out = out if batched else out.squeeze(1)
        if not need_weights:
            return out, None
        shown = shares.mean(1) if average_attn_weights else shares
        return out, shown if batched else shown.squeeze(0)

    def _batch_first(self, x: Tensor, batched: bool) -> Tensor:
        if not batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _heads(self, x_NTE: Tensor) -> Tensor:
        return x_NTE.reshape(*x_NTE.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(self, attn_mask: Tensor | None, padding_NS: Tensor | None, q: Tensor) -> Tensor | None:
        """Bring both masks into one that is added to the scores (N, H, T, S)."""
        masks = []
        if attn_mask is not None:
            each = (-1, self.num_heads, *attn_mask.shape[1:])
            masks.append(attn_mask.reshape(each) if attn_mask.dim() == 3 else attn_mask)
        if padding_NS is not None:
            masks.append(padding_NS.reshape(-1, 1, 1, padding_NS.shape[-1]))
        added = [
            torch.zeros_like(m, dtype=q.dtype).masked_fill(m, -torch.inf) if m.dtype == torch.bool else m
            for m in masks
        ]
        return sum(added[1:], added[0]) if added else None


def fit_heads(model: nn.Module) -> nn.Module:
    """Give every attention that lost heads or inputs the class that can do with fewer; return the network."""
    for module in model.modules():
        if type(module) is nn.MultiheadAttention and _is_cut(module):
            module.__class__ = FewerHeads
            module._qkv_same_embed_dim = False  # keeps torch's fused kernels away, which don't know of it
    return model


def _is_cut(module: nn.MultiheadAttention) -> bool:
    read = module.embed_dim if module.in_proj_weight is None else module.in_proj_weight.shape[1]
    return {module.num_heads * module.head_dim, int(read)} != {module.embed_dim}
