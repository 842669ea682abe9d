"""Forward passes in training mode that draw nothing: two networks of different widths can be compared so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Undrawn(TorchFunctionMode):
    """Lets dropout pass everything on, and Bernoulli draws, such as drop-path's, come out as ones."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replacement = _REPLACEMENTS.get(func)
        return func(*args, **(kwargs or {})) if replacement is None else replacement(func, args, kwargs or {})


@contextmanager
def undrawn(model: nn.Module) -> Iterator[None]:
    """Let a network draw nothing while the block runs; its modules are as before afterwards."""
    inside = [m for m in model.modules() if isinstance(m, (nn.RNNBase, nn.MultiheadAttention))]
    shares = [module.dropout for module in inside]
    try:
        for module in inside:  # these draw where no mode looks
            module.dropout = 0.0
        with Undrawn():
            yield
    finally:
        for module, share in zip(inside, shares, strict=True):
            module.dropout = share


def _passed_on(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs["input"]


def _ones(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return func(*args, **kwargs).fill_(1)


def _without_dropout(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    # dropout_p is the fifth argument.
    return func(*args[:4], *((0.0, *args[5:]) if len(args) > 4 else ()), **{**kwargs, **_no(kwargs)})


def _no(kwargs: Mapping[str, Any]) -> dict[str, float]:
    return {"dropout_p": 0.0} if "dropout_p" in kwargs else {}


# fmt: off
_DROPOUTS = (
    functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d,
    functional.alpha_dropout, functional.feature_alpha_dropout,
    torch.dropout, torch.dropout_, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout,
)
# fmt: on

_REPLACEMENTS: Mapping[Any, Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]] = {
    **dict.fromkeys(_DROPOUTS, _passed_on),
    **dict.fromkeys((torch.bernoulli, Tensor.bernoulli, Tensor.bernoulli_), _ones),
    functional.scaled_dot_product_attention: _without_dropout,
}
