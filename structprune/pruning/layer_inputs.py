"""How large the inputs of layers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from structprune.nn.layers import (
    is_depthwise,
    weighted_layers,
)


def input_sizes(model: nn.Module, forward: Callable[[], object]) -> dict[str, int]:
    """Run a forward pass and return layer -> bytes of its input, for every conv and linear layer."""
    sizes: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            sizes[name] = sizes.get(name, 0) + x.nbytes

        return hook

    layers = [(name, layer) for name, layer in weighted_layers(model) if not is_depthwise(layer)]
    handles = [layer.register_forward_pre_hook(note(name), with_kwargs=True) for name, layer in layers]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return sizes
