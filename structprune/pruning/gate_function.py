"""What a gate does to what passes through it, once or row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Hook = Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]


@contextmanager
def hooked_before(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Change the inputs of some layers while the block runs; the hooks are gone when it ends."""
    modules = dict(model.named_modules())
    handles = []
    try:
        for name, hook in hooks.items():
            handles.append(modules[name].register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def multiply(scale: Tensor, axis: int | None = None) -> Hook:
    """Hook that multiplies what comes in by a scale, along an axis of rows where there is one."""
    # Asked once and not in every derivative: on a GPU the answer has to be waited for.
    is_open = bool((scale == 1).all())

    def multiply(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (gated(args[0]), *args[1:]), kwargs
        name = "input" if "input" in kwargs else next(iter(kwargs))  # as a layer of a library's own calls it
        return (), {**kwargs, name: gated(kwargs[name])}

    def gated(x: Tensor) -> Tensor:
        return _gated(x, scale, is_open) if axis is None else _in_rows(x, scale, is_open, axis)

    return multiply


def _in_rows(x: Tensor, scale_BI: Tensor, is_open: bool, axis: int) -> Tensor:
    """Multiply the samples of each mini-batch, end to end along an axis, by its own row."""
    rows, *inputs = scale_BI.shape
    laid = x.reshape(*x.shape[:axis], rows, -1, *x.shape[axis + 1 :])
    between = laid.dim() - axis - 1 - len(inputs)
    scale = scale_BI.reshape(*(1,) * axis, rows, *(1,) * between, *inputs)
    return _gated(laid, scale, is_open).flatten(axis, axis + 1)


def _gated(x: Tensor, scale: Tensor, is_open: bool) -> Tensor:
    out: Tensor = _Gated.apply(x, scale, is_open) if is_open else x * scale
    return out


class _Gated(torch.autograd.Function):
    """x times an open gate, which is x itself: a product would keep every activation twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, is_open: bool) -> Tensor:
        ctx.save_for_backward(x, scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,), (x, scale) = grads, ctx.saved_tensors
        wants_x, wants_scale, _ = ctx.needs_input_grad
        along_x = _gated(grad, scale, True) if wants_x else None
        along_scale = (grad * x).sum_to_size(scale.shape) if wants_scale else None
        return along_x, along_scale, None
