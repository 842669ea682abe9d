"""What of a network's output a loss takes, and what its layers tell about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from structprune.errors import InputError
from structprune.nn.layers import WEIGHTED, Conv, Recurrent, out_width

NAMED = ("logits", "out")
"""Under which name outputs with several tensors keep what a loss takes: transformers', torchvision's."""

Calls = list[tuple[nn.Module, Any]]
"""Layers with what they put out, in the order in which they ran."""


def part_of(output: object) -> tuple[str, Tensor]:
    """Return the real-valued tensor that a loss takes, and its name within the output.

    Of several it is the one called logits or out, else the first with more than one axis, else the first.

    Raises:
        InputError: there is none.
    """
    if isinstance(output, Tensor) and _is_real(output):
        return "", output
    real = [(name, x) for name, x in _entries(output) if isinstance(x, Tensor) and _is_real(x)]
    ranked = sorted(real, key=lambda entry: (entry[0] not in NAMED, entry[1].dim() < 2))
    if not ranked:
        raise InputError(f"the network puts out {described(output)}, for which no loss is known")
    return ranked[0]


def _is_real(x: Tensor) -> bool:
    return x.is_floating_point() and x.dim() > 0


def _entries(output: object) -> Iterator[tuple[str, Any]]:
    if isinstance(output, Mapping):
        yield from ((str(name), x) for name, x in output.items())
    elif isinstance(output, tuple | list):
        names = getattr(output, "_fields", range(len(output)))
        yield from ((str(name), x) for name, x in zip(names, output, strict=True))
    else:
        yield from getattr(output, "__dict__", {}).items()


def described(output: object) -> str:
    """Name an output: a tensor by its shape, anything else by its type."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    return f"a {type(output).__name__}"


@contextmanager
def watched(model: nn.Module) -> Iterator[Calls]:
    """Note the conv, linear and recurrent layers that run inside, with what they put out."""
    calls: Calls = []
    layers = [layer for layer in model.modules() if isinstance(layer, (*WEIGHTED, Recurrent))]
    handles = [layer.register_forward_hook(lambda m, _, out: calls.append((m, out))) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def axis_of_classes(output: Tensor, layers: Calls) -> int:
    """Return the axis that holds classes: the last one behind a linear or recurrent layer, else axis 1.

    Of the layers the one counts whose output this is, else the last one that ran.
    """
    if output.dim() < 3 or not layers:
        return 1
    layer = next((each for each, out in layers if out is output), layers[-1][0])
    width = output.shape[-1]
    return output.dim() - 1 if not isinstance(layer, Conv) and out_width(layer) == width else 1


def ends_in_sigmoid(output: Tensor) -> bool:
    """Tell whether the last operation on an output, but for changes of shape, is a sigmoid."""
    step = output.grad_fn
    while step is not None and step.name().startswith(_OF_SHAPE):
        step = step.next_functions[0][0]
    return step is not None and step.name().startswith("SigmoidBackward")


_OF_SHAPE = (
    "View",
    "UnsafeView",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Permute",
    "Transpose",
    "Select",
    "Slice",
    "Clone",
)
