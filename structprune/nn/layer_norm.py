"""Norms that go by some of their channels, as those of a shrunk network do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Call = Mapping[str, Any]
"""Arguments of a function, by name."""


@contextmanager
def open_norms(model: nn.Module, open_C: Mapping[str, Tensor]) -> Iterator[None]:
    """Let norms take mean and variance of their open channels alone, while the block runs.

    It is functions that do so, inside these modules, whatever else they do around them: those of LayerNorm,
    RMSNorm and GroupNorm, and the mean, which norms that a library writes by itself are made of.

    Args:
        model: the network.
        open_C: norm -> (C,) ones for open channels, zeros for closed ones.
    """
    closing = {name: mask for name, mask in open_C.items() if not bool((mask == 1).all())}
    running: list[Tensor] = []
    with ExitStack() as stack:
        for name, mask in closing.items():
            module = model.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(_entering(running, mask)).remove)
            leaving = module.register_forward_hook(_leaving(running), always_call=True)
            stack.callback(leaving.remove)
        if closing:
            stack.enter_context(_OpenNorms(running))
        yield


def _entering(running: list[Tensor], mask: Tensor) -> Callable[..., None]:
    return lambda *_: running.append(mask)


def _leaving(running: list[Tensor]) -> Callable[..., None]:
    def hook(*_: object) -> None:
        running.pop()  # and return nothing, which would take the output's place

    return hook


class _OpenNorms(TorchFunctionMode):
    """Centres and scales by open channels alone, inside a module that is running."""

    def __init__(self, running: list[Tensor]) -> None:
        super().__init__()
        self.running = running

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = _OPEN.get(func) if self.running else None
        if known is not None:
            names, opened = known
            call = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
            out = opened(call, self.running[-1])
            if out is not None:
                return out
        return func(*args, **(kwargs or {}))


def centred(x: Tensor, open_C: Tensor, eps: float) -> Tensor:
    """Change what a LayerNorm gets so that it normalises open channels as if there were no others.

    Let v be the variance of the K open ones. Of their deviations from their mean, times a and zero elsewhere,
    the mean over all C is zero and the variance a^2 v K / C. The norm divides by the root of that plus eps:
    with a^2 = eps / (v (1 - K / C) + eps) the deviation over the root of v + eps comes out.

    Args:
        x: (..., C).
        open_C: ones and zeros.
        eps: the norm's, above 0.
    """
    share = open_C.mean()

    def mean(values: Tensor) -> Tensor:
        return (values * open_C).mean(-1, keepdim=True) / share

    apart = (x - mean(x)) * open_C
    return apart * (eps / (mean(apart.square()) * (1 - share) + eps)).sqrt()


# ---- functions, with open channels; None where they do not normalise these


def _layer_norm(call: Call, mask: Tensor) -> Tensor | None:
    if tuple(call["normalized_shape"]) != tuple(mask.shape):
        return None
    return functional.layer_norm(**{**call, "input": centred(call["input"], mask, call.get("eps", 1e-5))})


def _rms_norm(call: Call, mask: Tensor) -> Tensor | None:
    """Inputs over the root of the mean square, times a weight."""
    if tuple(call["normalized_shape"]) != tuple(mask.shape):
        return None
    x, weight, eps = call["input"], call.get("weight"), call.get("eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    scaled: Tensor = x * ((x.square() * mask).mean(-1, keepdim=True) / mask.mean() + eps).rsqrt()
    return scaled if weight is None else scaled * weight


def _group_norm(call: Call, mask: Tensor) -> Tensor | None:
    """All channels at all places together, of every input."""
    x = call["input"]
    if call["num_groups"] != 1 or x.shape[1] != len(mask):
        return None
    open_NC = mask.reshape(-1, *(1,) * (x.dim() - 2))
    over = tuple(range(1, x.dim()))

    def mean(values: Tensor) -> Tensor:
        return (values * open_NC).mean(over, keepdim=True) / mask.mean()

    apart = x - mean(x)
    out: Tensor = apart * (mean(apart.square()) + call.get("eps", 1e-5)).rsqrt()
    for name, put in (("weight", torch.mul), ("bias", torch.add)):
        if call.get(name) is not None:
            out = put(out, call[name].reshape(open_NC.shape))
    return out


def _mean(call: Call, mask: Tensor) -> Tensor | None:
    """A mean over channels, and perhaps over more dimensions: channels lie along the one of their number."""
    x, dims = call["input"], call.get("dim", call.get("axis"))
    over = _dims(dims, x.dim())
    wide = [d for d in over if x.shape[d] == len(mask)]
    if len(wide) != 1:
        return None
    open_ = mask.reshape([-1 if d == wide[0] else 1 for d in range(x.dim())])
    rest = {name: value for name, value in call.items() if name not in ("input", "dim", "axis")}
    keepdim = bool(rest.pop("keepdim", rest.pop("keepdims", False)))
    return torch.mean(x * open_ / mask.mean(), dim=over, keepdim=keepdim, **rest)


def _dims(dims: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    many = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
    return tuple(d % rank for d in many)


_MEAN = (("input", "dim", "keepdim"), _mean)
_OPEN: Mapping[Any, tuple[tuple[str, ...], Callable[[Call, Tensor], Tensor | None]]] = {
    functional.layer_norm: (("input", "normalized_shape", "weight", "bias", "eps"), _layer_norm),
    functional.rms_norm: (("input", "normalized_shape", "weight", "eps"), _rms_norm),
    torch.rms_norm: (("input", "normalized_shape", "weight", "eps"), _rms_norm),
    functional.group_norm: (("input", "num_groups", "weight", "bias", "eps"), _group_norm),
    torch.mean: _MEAN,
    Tensor.mean: _MEAN,
}
"""Function -> its arguments' names, and what it does with open channels."""
