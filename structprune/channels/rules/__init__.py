"""What operations do to labels: one rule an operation of ATen, and none for those that nobody listed.

A rule gets the trace, the call and its results, and returns a tag for every result. An operation without a
rule pins whatever reaches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from structprune.channels.labels import Tag
from structprune.channels.rules.call import Rule, for_all
from structprune.channels.rules.elementwise import (
    along_one,
    gated_linear,
    in_space,
    padding,
    pointwise,
    reduction,
    sampled,
    shaped_like,
)
from structprune.channels.rules.indexing import (
    cut_out,
    expanded,
    filled_later,
    joined,
    moved,
    permuted,
    picked_out,
    put_in,
    scattered,
    split,
    squeezed,
    strided,
)
from structprune.channels.rules.matmul import FACTORS, convolution, product
from structprune.channels.rules.norms import batch_norm, group_norm, layer_norm, mean, table
from structprune.channels.rules.reshaping import viewed

# The tables are long and grow; black's one name a line would hide them.
# fmt: off
MOVED = (
    "flip", "repeat", "unfold", "rot90", "repeat_interleave", "pixel_shuffle", "pixel_unshuffle",
    "native_channel_shuffle", "channel_shuffle", "im2col",
)
PICKED = ("roll", "index", "index_select", "gather", "take", "diagonal")
NEW = ("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided")
PERMUTED = ("permute", "transpose", "t", "unsqueeze", "movedim", "numpy_T")
LIKE = ("empty_like", "zeros_like", "ones_like", "rand_like", "randn_like", "full_like")
REDUCED = (
    "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm",
    "logsumexp", "max", "min", "argmax", "argmin", "any", "all", "prod", "median",
)
ALONG_ONE = (
    "_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod", "sort",
    "topk",
)
SPACE = tuple(
    f"{kind}{n}d{rest}"
    for n in (1, 2, 3)
    for kind, rest in (
        ("max_pool", ""), ("max_pool", "_with_indices"), ("mkldnn_max_pool", ""), ("avg_pool", ""),
        ("adaptive_avg_pool", ""), ("_adaptive_avg_pool", ""), ("adaptive_max_pool", ""),
        ("reflection_pad", ""), ("replication_pad", ""), ("upsample_nearest", ""), ("upsample_linear", ""),
        ("upsample_bilinear", ""), ("upsample_bicubic", ""), ("upsample_trilinear", ""),
        ("_upsample_nearest_exact", ""), ("_upsample_bilinear", "_aa"), ("_upsample_bicubic", "_aa"),
    )
)
# Entry by entry, though ATen does not tag all of their overloads so.
ALIKE = (
    "clone", "_to_copy", "alias", "detach", "contiguous", "lift_fresh", "lift_fresh_copy", "copy", "where",
    "native_dropout", "_fused_dropout", "masked_fill", "fill", "zero", "normal", "uniform", "bernoulli",
    "_prelu_kernel", "celu", "rrelu_with_noise", "hardswish", "mish", "gelu", "threshold", "rsub",
)
GRIDS = ("grid_sampler_2d", "grid_sampler_3d", "cudnn_grid_sampler", "grid_sampler")
SCATTERED = (
    "index_add", "index_copy", "index_fill", "index_reduce", "scatter", "scatter_add", "scatter_reduce",
)
BATCH_NORMS = (
    "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_no_update",
)
# fmt: on

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ALIKE, pointwise),
    **dict.fromkeys(LIKE, shaped_like),
    **dict.fromkeys(REDUCED, reduction),
    "mean": mean,
    **dict.fromkeys(ALONG_ONE, along_one),
    **dict.fromkeys(SPACE, in_space),
    "constant_pad_nd": padding,
    **dict.fromkeys(MOVED, moved),
    **dict.fromkeys(PICKED, picked_out),
    **dict.fromkeys(NEW, lambda tracer, call: for_all(call, Tag())),
    "new_empty": filled_later,
    "glu": gated_linear,
    **dict.fromkeys(GRIDS, sampled),
    **dict.fromkeys(SCATTERED, scattered),
    **dict.fromkeys(("index_put", "_index_put_impl"), put_in),
    **dict.fromkeys(PERMUTED, permuted),
    "as_strided": strided,
    "squeeze": squeezed,
    "expand": expanded,
    "slice": cut_out,
    "select": cut_out,
    "narrow": cut_out,
    **dict.fromkeys(("split", "split_with_sizes", "unbind", "chunk"), split),
    **dict.fromkeys(("cat", "stack"), joined),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), viewed),
    **dict.fromkeys(FACTORS, product),
    "convolution": convolution,
    **dict.fromkeys(BATCH_NORMS, batch_norm),
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "embedding": table,
}


def rule_of(operation: Any, name: str) -> Rule | None:
    """Return the rule of an operation, or None where nobody listed it."""
    if name in RULES:
        return RULES[name]
    return pointwise if torch.Tag.pointwise in operation.tags else None
