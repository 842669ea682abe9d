"""LayerNorms that go by some of their channels, as those of a shrunk network do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_ARGUMENTS = ("input", "normalized_shape", "weight", "bias", "eps")


@contextmanager
def open_norms(model: nn.Module, open_C: Mapping[str, Tensor]) -> Iterator[None]:
    """Let LayerNorms take mean and variance of their open channels alone, while the block runs.

    It is ``functional.layer_norm`` that does so, inside these modules, whatever else they do around it.

    Args:
        model: the network.
        open_C: LayerNorm -> (C,) ones for open channels, zeros for closed ones.
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
    """Centres what goes into a LayerNorm inside a module that is running."""

    def __init__(self, running: list[Tensor]) -> None:
        super().__init__()
        self.running = running

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {**dict(zip(_ARGUMENTS, args, strict=False)), **(kwargs or {})}
        if func is not functional.layer_norm or not self.running:
            return func(*args, **(kwargs or {}))
        mask = self.running[-1]
        if tuple(given["normalized_shape"]) == tuple(mask.shape):
            given["input"] = centred(given["input"], mask, given.get("eps", 1e-5))
        return func(**given)


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
