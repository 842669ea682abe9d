"""Gates: tensors of ones that multiply something, so that everything that is scored has a derivative.

A channel gate sits where its channel is read: it multiplies the input of every layer that reads it. That
equals a factor on the layer's weight along its input dimension, and closing it is exactly what removing
the channel does, whatever lies between. A weight gate multiplies a weight entry by entry; that of a
weight that is masked is closed.

Letters: C channels of a group, I inputs of a layer, O outputs, G conv groups, k kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from structprune.channels import ChannelGroup, ChannelGroups, Coupling
from structprune.errors import UsageError
from structprune.nn.fixed_layers import FixedLayers
from structprune.nn.layer_norm import open_norms
from structprune.nn.layers import (
    Attention,
    BatchNorm,
    Conv,
    ConvTranspose,
    Recurrent,
    conv_groups,
    in_width,
    is_turned,
    node_layers,
    normalised_width,
    normalises,
    recurrent_reads,
    weight_of,
    weighted_layers,
)
from structprune.nn.precision import real_parameter
from structprune.pruning.gate_function import hooked_before, multiply

Gates = Mapping[str, Tensor]
Scale = Callable[[Gates], Tensor]
Row = tuple[str, tuple[int, ...], tuple[int, ...]]
"""A layer, some of its own channels, and for each of them the gate that it belongs to."""
Flow = Literal["gates", "weights"]


@dataclass(frozen=True)
class GatedModel:
    """A model whose weights or inputs are multiplied by gates, by functional calls only.

    Attributes:
        model: the network; calling the gated model leaves it as it was.
        shapes: gate name -> shape.
        weight_scales: parameter name -> the factor on it, from the gates.
        input_scales: layer name -> the factor on its input, from the gates.
        producers: channel gate -> the layers whose output channels it stands for.
        norms: channel gate -> the batch norms that these channels pass on the way to where they are read.
        open: LayerNorm or the like -> which of the channels that it normalises together are open, from the
            gates; it goes by these alone. See :func:`renormalised`.
        masks: gate name -> 0/1 tensor of the gate's shape: which gates are open; all, where it has no name.
        flow: whose gradient is the gradient flow: that of the gates or that of the effective weights, which
            are the weights times the gates.
        axes: layer of ``input_scales`` -> the axis of its input along which the samples lie, one after the
            other; None where that is not known. Where it is, gates may have a row (B, C) for each of B
            mini-batches of one size that a pass takes side by side.
    """

    model: nn.Module
    shapes: Mapping[str, torch.Size]
    weight_scales: Mapping[str, Scale]
    input_scales: Mapping[str, Scale] = field(default_factory=dict)
    producers: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    norms: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    open: Mapping[str, Scale] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    flow: Flow = "gates"
    axes: Mapping[str, int] | None = None

    def ones(self, requires_grad: bool = True, rows: int | None = None) -> dict[str, Tensor]:
        """Return the gates as they stand: ones, and zeros for what is masked; new tensors in every call.

        They are on the model's device and in its precision.

        Args:
            requires_grad: whether they are to be differentiated.
            rows: how many mini-batches get gates of their own, each a row; None: there are no rows.
        """
        like = real_parameter(self.model).detach()
        gates = {name: like.new_ones(shape) for name, shape in self.shapes.items()}
        gates |= {name: mask.detach().to(like, copy=True) for name, mask in self.masks.items()}
        if rows is not None:
            gates = {name: gate.expand(rows, *gate.shape).clone() for name, gate in gates.items()}
        return {name: gate.requires_grad_(requires_grad) for name, gate in gates.items()}

    def effective(self, gates: Gates, parameters: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the weights that the network computes with: those that gates multiply, multiplied.

        Args:
            gates: gate name -> tensor of its shape.
            parameters: values that stand in for the network's own, before gates multiply them.
        """
        values = self._values(parameters)
        return {name: values[name] * scale(gates) for name, scale in self.weight_scales.items()}

    def __call__(
        self,
        gates: Gates,
        inputs: Sequence[Tensor],
        parameters: Mapping[str, Tensor] | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        scaled: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Run the network with gates.

        Args:
            gates: gate name -> tensor of its shape, or with a row for each of the mini-batches that the
                inputs are made of, where ``axes`` are known.
            inputs: positional arguments of the network's forward pass.
            parameters: values that stand in for the network's own, before gates multiply them.
            buffers: buffers that stand in for the network's own; they are written to, where the network
                writes to its buffers.
            scaled: effective weights that stand in for the products of weights and gates, as
                :meth:`effective` returns them.

        Returns:
            What the network returns.
        """
        values = self._values(parameters)
        scaled = self.effective(gates, parameters) if scaled is None else scaled
        stand_ins = {**self._scratch_buffers(), **(buffers or {})}
        rows = _rows_of(gates, self.shapes)
        axes = (self.axes or {}) if rows else {}
        hooks = {name: multiply(s(gates), axes.get(name)) for name, s in self.input_scales.items()}
        norms = {name: scale(gates) for name, scale in self.open.items()}
        with hooked_before(self.model, hooks), open_norms(self.model, norms):
            every = {**values, **scaled, **stand_ins}
            every |= {alias: every[name] for alias, name in _aliases(self.model).items() if name in every}
            # torch restores a module that has two names wrongly where it looks for aliases by itself.
            with FixedLayers():
                return functional_call(self.model, every, tuple(inputs), tie_weights=False)

    @contextmanager
    def closing(self, gates: Gates) -> Iterator[None]:
        """Let the network itself run with gates while the block runs: what it writes to itself, it keeps.

        Weights are multiplied for good: for a copy of a network, which is only compared.

        Args:
            gates: gate name -> tensor of its shape.
        """
        with torch.no_grad():
            for name, value in self.effective(gates).items():
                self.model.get_parameter(name).copy_(value)
        hooks = {name: multiply(s(gates)) for name, s in self.input_scales.items()}
        norms = {name: scale(gates) for name, scale in self.open.items()}
        with hooked_before(self.model, hooks), open_norms(self.model, norms):
            yield

    def _values(self, parameters: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        own = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        return {**own, **(parameters or {})}

    def _scratch_buffers(self) -> dict[str, Tensor]:
        # Whatever a forward pass writes to a buffer, it writes to a copy.
        return {name: buffer.clone() for name, buffer in self.model.named_buffers()}


def gate_channels(
    model: nn.Module, groups: ChannelGroups, input_bytes: Mapping[str, int] | None = None
) -> GatedModel:
    """Put one gate per channel of every group where the channel is read.

    Args:
        model: the network.
        groups: its groups of coupled channels.
        input_bytes: layer -> bytes of its input in one pass. A gate goes on the input where that is
            smaller than the weight; both give the same scores, memory differs by up to a factor of two.
            None puts every gate on an input, which copies no weight.

    Returns:
        The gated model, one gate of shape (C,) per group.
    """
    layers = dict(node_layers(model))
    norms = {name for name, module in model.named_modules() if isinstance(module, BatchNorm)}
    weight_scales: dict[str, Scale] = {}
    input_scales: dict[str, Scale] = {}
    widths = {name: in_width(layer) for name, layer in layers.items()}
    for name, index_I in _gate_indices(widths, [(group, group.consumers) for group in groups]).items():
        layer = layers[name]
        if isinstance(layer, (Recurrent, Attention)):
            for key, reads in _inner_reads(layer).items():
                weight_scales[f"{name}.{key}"] = _channel_scale(groups, index_I[reads], _as_row)
            continue
        on_input = input_bytes is None or input_bytes.get(name, math.inf) < weight_of(layer).nbytes
        # An attention hands this layer's weight to a function; the layer itself is never called.
        on_input = on_input and not isinstance(layer, NonDynamicallyQuantizableLinear)
        target = input_scales if on_input else weight_scales
        view = _input_view(layer) if on_input else _weight_view(layer)
        target[name if on_input else f"{name}.weight"] = _channel_scale(groups, index_I, view)
    return GatedModel(
        model=model,
        shapes={group.name: torch.Size([group.size]) for group in groups},
        weight_scales=weight_scales,
        input_scales=input_scales,
        producers={group.name: _rows(group.producers) for group in groups},
        norms={group.name: _rows(c for c in group.carriers if c.layer in norms) for group in groups},
    )


def _rows_of(gates: Gates, shapes: Mapping[str, torch.Size]) -> bool:
    """Tell whether the gates have a row for each of several mini-batches."""
    return any(gates[name].dim() > len(shape) for name, shape in shapes.items() if name in gates)


def _aliases(model: nn.Module) -> dict[str, str]:
    """Return every further name of a parameter or buffer that several modules share -> its first one."""
    first: dict[int, str] = {}
    aliases = {}
    for prefix, module in model.named_modules():  # a module once, whatever names it has
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            name = f"{prefix}.{key}" if prefix else key
            if tensor is not None and first.setdefault(id(tensor), name) != name:
                aliases[name] = first[id(tensor)]
    return aliases


def renormalised(gated: GatedModel, groups: ChannelGroups) -> GatedModel:
    """Let every norm whose channels can be cut take mean and variance of the open ones alone.

    So do the norms of the shrunk network, which closing gates alone does not equal.
    """
    modules = gated.model.named_modules()
    widths = {name: normalised_width(module) for name, module in modules if normalises(module)}
    rows = [(group, [c for c in group.carriers if c.layer in widths]) for group in groups]
    indices = _gate_indices(widths, rows)
    scales = {name: _channel_scale(groups, index_C, torch.clone) for name, index_C in indices.items()}
    return replace(gated, open=scales)


def _rows(couplings: Iterable[Coupling]) -> tuple[Row, ...]:
    return tuple((c.layer, c.channels, c.gates) for c in couplings)


def gate_weights(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> GatedModel:
    """Put one gate on every entry of every conv and linear weight.

    Args:
        model: the network, plain: its weights are those that lie under the masks.
        masks: parameter name -> 0/1 tensor of its shape, 0 where the weight is masked. None, or a name that
            is missing: nothing is.

    Returns:
        The gated model, one gate of the weight's shape per layer, named as the parameter; a weight that
        several layers share has one.

    Raises:
        UsageError: a mask has the name of no such weight, or not its shape.
    """
    parameters = dict(model.named_parameters())
    names = [f"{name}.weight" for name, _ in weighted_layers(model) if f"{name}.weight" in parameters]
    shapes = {name: parameters[name].shape for name in names}
    _check_masks(shapes, masks or {})
    return GatedModel(
        model=model,
        shapes=shapes,
        weight_scales={name: _weight_scale(name) for name in names},
        masks=dict(masks or {}),
        flow="weights",
    )


def _check_masks(shapes: Mapping[str, torch.Size], masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        if shapes.get(name) != mask.shape:
            expected = f"its shape is {tuple(shapes[name])}" if name in shapes else "no gate has that name"
            raise UsageError(f"a mask of shape {tuple(mask.shape)} for {name!r}: {expected}")


def _weight_scale(name: str) -> Scale:
    return lambda gates: gates[name]


def _gate_indices(
    widths: Mapping[str, int], rows: Sequence[tuple[ChannelGroup, Sequence[Coupling]]]
) -> dict[str, Tensor]:
    """For each layer that meets gated channels: (I,) positions in the gates laid end to end.

    The last position, behind all gates, is a constant one for inputs without a gate.
    """
    ungated = sum(group.size for group, _ in rows)
    indices: dict[str, Tensor] = {}
    offset = 0
    for group, couplings in rows:
        for coupling in couplings:
            index_I = indices.setdefault(coupling.layer, torch.full((widths[coupling.layer],), ungated))
            index_I[list(coupling.channels)] = offset + torch.tensor(coupling.gates)
        offset += group.size
    return indices


def _channel_scale(groups: ChannelGroups, index_I: Tensor, view: Callable[[Tensor], Tensor]) -> Scale:
    names = [group.name for group in groups]

    def scale(gates: Gates) -> Tensor:
        leading = gates[names[0]]
        ends = torch.cat([*(gates[name] for name in names), leading.new_ones(*leading.shape[:-1], 1)], -1)
        return view(ends[..., index_I.to(ends.device)])

    return scale


def _inner_reads(layer: Recurrent | Attention) -> Mapping[str, Tensor]:
    """Weight name -> which of what the layer reads each of its columns multiplies."""
    if isinstance(layer, Recurrent):
        return recurrent_reads(layer)
    return {"in_proj_weight": torch.arange(in_width(layer))}


def _as_row(scale_I: Tensor) -> Tensor:
    return scale_I.reshape(1, -1)


def _input_view(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    spatial = len(layer.kernel_size) if isinstance(layer, Conv) else 0
    return lambda scale_I: scale_I.reshape(*scale_I.shape, *(1,) * spatial)


def _weight_view(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Lay a factor per input along a weight's input dimension, for every kind of layer."""
    weight = weight_of(layer)
    kernel = (1,) * (weight.dim() - 2)
    groups = conv_groups(layer)
    if isinstance(layer, ConvTranspose) or is_turned(layer):  # (I, O / G, k, k) or (I, O)
        return lambda scale_I: scale_I.reshape(-1, 1, *kernel)
    if groups == 1:  # (O, I, k, k)
        return lambda scale_I: scale_I.reshape(1, -1, *kernel)
    # (O, I / G, k, k): each conv group reads its own inputs.
    outputs = weight.shape[0] // groups
    return lambda scale_I: (
        scale_I.reshape(groups, 1, -1, *kernel).expand(-1, outputs, *(-1,) * (1 + len(kernel))).flatten(0, 1)
    )
