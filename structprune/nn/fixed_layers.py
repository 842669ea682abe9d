"""Convolutions and batch norms of fixed weights, differentiated as the linear maps that they are.

Scores are derivatives with respect to gates, never to the weights behind them. torch's second derivative of
a convolution takes the weight's all the same, by a convolution of an odd shape that costs as much as all the
others together, and a batch norm keeps its input for what nobody asks. With a fixed weight a convolution is
x -> A x + b: its derivative applies A', and the derivative of that applies A.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class _Convolution:
    """A fixed weight, and how it is laid over an input."""

    weight: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @property
    def laid(self) -> tuple[Any, ...]:
        """The settings behind the weight, in the order in which torch takes them."""
        return self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups

    def apply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return A x + b."""
        if not self._has_two_kernels(x):
            return self._apply(x, bias)
        return torch.cat([self._apply(part, bias) for part in torch.split(x, _FEW)])

    def _apply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        out: Tensor = torch.ops.aten.convolution(x, self.weight, bias, *self.laid)
        return out

    def apply_transposed(self, y: Tensor, like: Tensor) -> Tensor:
        """Return A' y, shaped like an input."""
        wanted = (True, False, False)
        out: Tensor = torch.ops.aten.convolution_backward(y, like, self.weight, None, *self.laid, wanted)[0]
        return out

    def _has_two_kernels(self, x: Tensor) -> bool:
        """Tell whether torch computes so many samples by another kernel than a few of them.

        On one CPU thread it does so for 1x1 convolutions from 16 samples on. The last digits differ, which
        flips rectifiers that are nearly at zero, and the scores of an untrained network then depend on the
        chunk (to 1e-2 for ResNet-50). The kernel for few samples is also the faster one.
        """
        return (
            x.device.type == "cpu"
            and x.dtype == torch.float32
            and not self.transposed
            and len(x) >= _MANY
            and {*self.weight.shape[2:], *self.stride, *self.dilation} == {1}
            and torch.get_num_threads() == 1
        )


_FEW, _MANY = 8, 16


class _Applied(torch.autograd.Function):
    """A x + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Convolution, bias: Tensor | None) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        return layer.apply(x, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return _Transposed.apply(grads[0], ctx.layer, ctx.saved_tensors[0].detach()), None, None


class _Transposed(torch.autograd.Function):
    """A' y."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, layer: _Convolution, like: Tensor) -> Tensor:
        ctx.layer = layer
        return layer.apply_transposed(y, like)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return _Applied.apply(grads[0], ctx.layer, None), None, None


class _Normalised(torch.autograd.Function):
    """A batch norm with statistics that are given: a factor and a shift for every channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Callable[[Tensor], Tensor], factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return norm(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    return _convolved(x, weight, bias, stride, padding, dilation, False, 0, groups)


def _convolution_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor | None:
    return _convolved(x, weight, bias, stride, padding, dilation, True, output_padding, groups)


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor | None:
    if not _is_fixed(weight, bias) or isinstance(padding, str) or x.dim() != weight.dim():
        return None
    sides = weight.dim() - 2
    stride, padding, dilation, output_padding = (
        _for_sides(value, sides) for value in (stride, padding, dilation, output_padding)
    )
    layer = _Convolution(weight, stride, padding, dilation, transposed, output_padding, groups)
    out: Tensor = _Applied.apply(x, layer, bias)
    return out


def _for_sides(value: int | Sequence[int], sides: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * sides if len(values) == 1 else values


def _batch_norm(
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    if training or mean is None or variance is None or not _is_fixed(mean, variance, weight, bias):
        return None
    factor_C = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
    factor = factor_C.reshape(1, -1, *(1,) * (x.dim() - 2)).to(x.dtype)

    def norm(values: Tensor) -> Tensor:
        return functional.batch_norm(values, mean, variance, weight, bias, False, momentum, eps)

    out: Tensor = _Normalised.apply(x, norm, factor)
    return out


def _is_fixed(*tensors: Tensor | None) -> bool:
    return not any(x is not None and x.requires_grad for x in tensors)


_FIXED: Mapping[Callable[..., Any], Callable[..., Tensor | None]] = {
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    torch.conv3d: _convolution,
    torch.conv_transpose1d: _convolution_transposed,
    torch.conv_transpose2d: _convolution_transposed,
    torch.conv_transpose3d: _convolution_transposed,
    functional.batch_norm: _batch_norm,
}


class FixedLayers(TorchFunctionMode):
    """While it is on, convolutions and batch norms of fixed weights are the linear maps of this file.

    What it doesn't know how to take, weights that are differentiated among it, torch computes as ever.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute one of torch's functions."""
        mapped = _FIXED.get(func)
        keywords = {_NAMES.get(name, name): value for name, value in (kwargs or {}).items()}
        out = mapped(*args, **keywords) if mapped and torch.is_grad_enabled() else None
        return func(*args, **(kwargs or {})) if out is None else out


_NAMES = {"input": "x", "running_mean": "mean", "running_var": "variance"}
