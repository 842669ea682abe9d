"""How torch computes while second derivatives are taken or operations are watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Switch off what second derivatives can't afford or can't use, and restore it.

    TF32 rounds at 1e-3, autocast at 4e-3; fused attention kernels have no double backward.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.mha.set_fastpath_enabled(False)
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
        torch.backends.mha.set_fastpath_enabled(fastpath)


@contextmanager
def doubles_kept(model: nn.Module) -> Iterator[None]:
    """Let the code of a network in float64 turn nothing into float32 while the block runs.

    RMSNorms and softmaxes of libraries compute in float32 at least. In a comparison in float64 that is the
    only rounding, and hides in its 1e-7 what the comparison is to show. Coordinates that are counted, as for
    grid_sample, must be of the type of what is sampled. Other networks run as they are.
    """
    in_double = any(x.dtype == torch.float64 for x in model.parameters())
    with _DoublesKept() if in_double else nullcontext():
        yield


class _DoublesKept(TorchFunctionMode):
    """Keeps float64 where code asks for float32, and makes float64 of whole numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("input")
        if isinstance(first, Tensor) and (first.dtype == torch.float64 or not _is_real(first)):
            if func is Tensor.float:
                return first.double()
            args = tuple(torch.float64 if x is torch.float32 else x for x in args)
            kwargs = {key: torch.float64 if x is torch.float32 else x for key, x in kwargs.items()}
        return func(*args, **kwargs)


def _is_real(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def cast_inputs(inputs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The same inputs, floating-point ones in another precision."""
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def in_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Turn a network's real numbers into float32 or float64, in place, and complex ones likewise."""
    numbers = torch.complex128 if dtype == torch.float64 else torch.complex64

    def cast(x: Tensor) -> Tensor:
        return x.to(numbers if x.is_complex() else dtype) if x.is_complex() or x.is_floating_point() else x

    model._apply(cast)  # type: ignore[no-untyped-call]
    return model


def real_parameter(model: nn.Module) -> Tensor:
    """First real parameter of a network, whose type and device its gates share."""
    return next(x for x in model.parameters() if x.is_floating_point())
