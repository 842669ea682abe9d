"""What the operations between layers do to channels.

torch-pruning takes every operation that it doesn't know for element-wise. Here a name that is not listed
protects whatever touches it. A rule gets the backward node, the dimensions of its input and which of them
holds the channels, and tells whether the channels are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

Rule = Callable[[Any, int, int], bool]


def _leaves_alone(node: Any, dims: int, channel_dim: int) -> bool:
    return True


def _pads_others(node: Any, dims: int, channel_dim: int) -> bool:
    # Pairs of (before, after), from the last dimension backwards.
    pair = 2 * (dims - 1 - channel_dim)
    return not any(node._saved_pad[pair : pair + 2])


def _reduces_others(node: Any, dims: int, channel_dim: int) -> bool:
    saved = getattr(node, "_saved_dim", None)
    if saved is None:
        return False  # over everything
    reduced = saved if isinstance(saved, (tuple, list)) else (saved,)
    # A negative dimension is saved as an unsigned 64-bit number.
    signed = [d - 2**64 if d >= 2**63 else d for d in reduced]
    return bool(signed) and channel_dim not in {d % dims for d in signed}


_PER_CHANNEL = (
    "Abs",
    "AdaptiveAvgPool1D",
    "AdaptiveAvgPool2D",
    "AdaptiveAvgPool3D",
    "AdaptiveMaxPool2D",
    "Add",
    "Alias",
    "AvgPool2D",
    "AvgPool3D",
    "Celu",
    "Clamp",
    "Clone",
    "Div",
    "Elu",
    "Exp",
    "Gelu",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyRelu",
    "LogSigmoid",
    "MaxPool2DWithIndices",
    "MaxPool3DWithIndices",
    "Mish",
    "MkldnnMaxPool2D",
    "Mul",
    "NativeDropout",
    "Neg",
    "Pow",
    "ReflectionPad1D",
    "ReflectionPad2D",
    "Relu",
    "ReplicationPad2D",
    "Rsub",
    "Sigmoid",
    "Silu",
    "Softplus",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tanh",
    "Threshold",
    "ToCopy",
    "Unsqueeze",
    "UpsampleBicubic2D",
    "UpsampleBilinear2D",
    "UpsampleNearest1D",
    "UpsampleNearest2D",
    "UpsampleNearest3D",
    "UpsampleNearestExact2D",
)
_REDUCING = ("Amax", "LinalgVectorNorm", "LogSoftmax", "Max", "Mean", "Softmax", "Sum", "Var")
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_PER_CHANNEL, _leaves_alone),
    **dict.fromkeys(_REDUCING, _reduces_others),
    "ConstantPadNd": _pads_others,
}
_FAULTS = {"ConstantPadNd": "its channels are padded with zeros, as in a shortcut without parameters"}


def operation_fault(grad_fn: Any, channels_last: bool) -> str | None:
    """Say why channels that meet an operation can't be cut, or None where they can.

    Args:
        grad_fn: the operation's backward node.
        channels_last: whether the channels are the last dimension (of linear layers) and not the second.
    """
    name = type(grad_fn).__name__
    operation = name.split("Backward")[0]
    rule = _RULES.get(operation)
    if _is_of_leaf(grad_fn):
        return None  # what a layer does to its own parameter; activations are no leaves
    if rule is None:
        return f"its channels meet {name}, which is not known to keep channels apart"
    dims = _input_dims(grad_fn)
    if dims is not None and not rule(grad_fn, dims, _channel_dim(dims, channels_last)):
        return _FAULTS.get(operation, f"its channels are mixed by {operation}")
    return None


def view_fault(grad_fn: Any, channels_last: bool) -> str | None:
    """Say why channels that go through a view can't be cut, or None where they can."""
    if _is_of_leaf(grad_fn):
        return None  # of a layer's own parameter, such as PReLU's slopes
    before = tuple(grad_fn._saved_self_sym_sizes)
    after = tuple(grad_fn._input_metadata[0].shape)
    if channels_last and len(before) > 2:
        fine = after[-1:] == before[-1:]
    else:
        fine = after[:2] == before[:2] or flattens(grad_fn)
    return None if fine else "its channels are reshaped"


def slices_space(grad_fn: Any) -> bool:
    """Tell whether a slice of (N, C, H, W) leaves batch and channels alone."""
    sizes = getattr(grad_fn, "_saved_self_sym_sizes", ())
    return len(sizes) >= 4 and int(grad_fn._saved_dim) >= 2


def flattens(grad_fn: Any) -> bool:
    """Tell whether a view ends the dimensions behind the channels: N C H W -> N CHW."""
    before = tuple(grad_fn._saved_self_sym_sizes)
    after = tuple(grad_fn._input_metadata[0].shape)
    return len(after) == 2 and len(before) > 2 and after[1] == math.prod(before[1:])


def repeats_channels(grad_fn: Any) -> bool:
    """Tell whether a view is a flatten with more than one entry a channel."""
    return flattens(grad_fn) and math.prod(tuple(grad_fn._saved_self_sym_sizes)[2:]) > 1


def _is_of_leaf(grad_fn: Any) -> bool:
    upstream = [fn for fn, _ in grad_fn.next_functions if fn is not None]
    return bool(upstream) and all(type(fn).__name__ == "AccumulateGrad" for fn in upstream)


def _channel_dim(dims: int, channels_last: bool) -> int:
    return dims - 1 if channels_last else min(1, dims - 1)


def _input_dims(grad_fn: Any) -> int | None:
    for name in ("_saved_self_sym_sizes", "_saved_self"):
        saved = getattr(grad_fn, name, None)
        if saved is not None:
            return saved.dim() if isinstance(saved, Tensor) else len(saved)
    upstream = [fn for fn, _ in grad_fn.next_functions if fn is not None and fn._input_metadata]
    return len(upstream[0]._input_metadata[0].shape) if upstream else None
