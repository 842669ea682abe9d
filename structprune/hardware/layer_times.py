"""How long a layer takes at any width, by a device profile; and which layers a network has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from structprune.hardware.profile import DeviceProfile, Kernel, Rates
from structprune.nn.layers import Conv, ConvTranspose, conv_groups, is_depthwise, node_layers

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LayerCall:
    """A layer that a pass runs, once for each time it does.

    Attributes:
        layer: its name.
        kind: which of the profile's kernels runs it.
        taps: entries of its kernel, 9 for 3x3.
        pixels: positions of its output, in a recurrent layer times its gates.
        groups: conv groups; 1 for depthwise ones, whose kind says it.
        stepped: whether widths matter: other than in two dimensions nothing runs on the fast path.
    """

    layer: str
    kind: str
    taps: int
    pixels: int
    groups: int = 1
    stepped: bool = True


def layer_calls(model: nn.Module, example: Sequence[Tensor]) -> tuple[LayerCall, ...]:
    """Return the layers with nodes that one pass runs, in its order; the model stays as it is."""
    calls: list[LayerCall] = []
    batch = max(len(example[0]), 1) if example[0].dim() else 1
    hooks = [
        layer.register_forward_hook(partial(_note, calls, name, batch)) for name, layer in node_layers(model)
    ]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    return tuple(calls)


def _note(
    calls: list[LayerCall], name: str, batch: int, layer: nn.Module, given: tuple[Any, ...], made: Any
) -> None:
    output = made[0] if isinstance(made, tuple) else made
    if isinstance(output, Tensor):
        calls.append(_call(name, layer, given, output, batch))


def _call(name: str, layer: nn.Module, given: tuple[Any, ...], output: Tensor, batch: int) -> LayerCall:
    if not isinstance(layer, Conv):
        positions = output.numel() // (max(int(output.shape[-1]), 1) * batch)
        return LayerCall(name, "linear", 1, max(positions, 1) * _gates(layer))
    transposed = isinstance(layer, ConvTranspose)
    where = given[0] if transposed and given else output
    taps, pixels = math.prod(layer.kernel_size), math.prod(where.shape[2:])
    stepped = len(layer.kernel_size) == 2 and not transposed
    if is_depthwise(layer):
        return LayerCall(name, "depthwise", taps, pixels, 1, stepped)
    return LayerCall(name, "1x1" if taps == 1 else "3x3", taps, pixels, conv_groups(layer), stepped)


def _gates(layer: nn.Module) -> int:
    """Return how many products a recurrent layer takes for each hidden unit; of others 1."""
    return next((n for kind, n in ((nn.LSTM, 4), (nn.GRU, 3)) if isinstance(layer, kind)), 1)


@dataclass(frozen=True)
class Shapes:
    """Layers that one kernel runs, as :class:`LayerCall` has them: L layers, arrays of shape (L, 1)."""

    kind: str
    stepped: bool
    taps: Numbers
    pixels: Numbers
    groups: Numbers


def stacked(calls: Sequence[LayerCall]) -> Shapes:
    """Put layers of one kind together."""
    columns = (
        [call.taps for call in calls],
        [call.pixels for call in calls],
        [call.groups for call in calls],
    )
    taps, pixels, groups = (np.array(column, dtype=np.float64)[:, None] for column in columns)
    return Shapes(calls[0].kind, calls[0].stepped, taps, pixels, groups)


def layer_us(
    profile: DeviceProfile, call: LayerCall | Shapes, inputs_W: Numbers, outputs_W: Numbers
) -> Numbers:
    """Return the microseconds of a layer for any number of widths at once.

    Args:
        profile: of the device that runs it.
        call: the layer, or L layers; widths are of shape (L, W) then.
        inputs_W: channels that it reads.
        outputs_W: channels that it writes; of a depthwise layer the same.

    Example:
        >>> from structprune.hardware.profile import Machine
        >>> none, rates = Rates(0, 0, 0, 0, 0), Rates(0, 1, 0, 0, 0)
        >>> kernel = Kernel(16, 16, 4, rates, rates, Rates(0, 3, 0, 0, 0))
        >>> profile = DeviceProfile("", "", "", "", "", 1, Machine("", ""), {"1x1": kernel})
        >>> call = LayerCall("conv", "1x1", 1, 10_000)
        >>> layer_us(profile, call, np.array([16.0, 17, 20, 32]), np.array([16.0] * 4)).tolist()
        [2.56, 8.16, 5.12, 5.12]
    """
    kernel = profile.kernels[call.kind]
    if call.kind == "depthwise":
        return _us(kernel, call, outputs_W, None, outputs_W)
    return _us(kernel, call, inputs_W / call.groups, inputs_W / call.groups, outputs_W / call.groups)


def _us(
    kernel: Kernel,
    call: LayerCall | Shapes,
    condition_W: Numbers,
    inputs_W: Numbers | None,
    outputs_W: Numbers,
) -> Numbers:
    """Take the path that the width ``condition_W`` opens; without inputs each output reads one channel."""
    filled_W = _filled(outputs_W, kernel.block)
    read_W = np.ones_like(outputs_W) if inputs_W is None else inputs_W
    slow_W = _sum(kernel.slow, call, read_W, outputs_W)
    if not call.stepped:
        return slow_W
    fast_W = _sum(kernel.fast, call, read_W if inputs_W is None else _filled(read_W, kernel.block), filled_W)
    grouped = np.asarray(call.groups) > 1  # there a block must not reach over two groups
    whole_W = (condition_W % kernel.block == 0) & (outputs_W % kernel.block == 0)
    fits_W = np.where(grouped, whole_W, condition_W % kernel.divisor == 0)
    narrow_W = np.where(grouped, slow_W, _sum(kernel.narrow, call, read_W, filled_W))
    wide_W = condition_W >= kernel.first
    return np.where(wide_W & fits_W, fast_W, np.where(wide_W, slow_W, narrow_W))


def _filled(widths_W: Numbers, block: int) -> Numbers:
    return np.ceil(widths_W / block) * block


def _sum(rates: Rates, call: LayerCall | Shapes, inputs_W: Numbers, outputs_W: Numbers) -> Numbers:
    return np.asarray(rates.us(call.taps, call.pixels, call.groups, inputs_W, outputs_W), dtype=np.float64)
