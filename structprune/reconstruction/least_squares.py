"""Every layer behind a cut refitted, so that it writes what the dense network's layer writes.

A layer's inputs are those of the shrunk network, with all layers before it refitted already, so that it also
makes good what is still wrong in them. Layer-wise reconstruction after pruning is that of ThiNet
(arXiv:1707.06342) and of channel pruning (arXiv:1707.06168), which fit the layer behind each cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from structprune.nn.layers import BatchNorm, weight_of
from structprune.reconstruction.im2col import (
    as_columns,
    as_weight,
    at_places,
    bias_of,
    by_group,
    columns,
    norm_scale,
    parts_of,
)
from structprune.reconstruction.normal_equations import Equations
from structprune.reconstruction.observed_pass import Fit, Pass, run
from structprune.reconstruction.refittable_layers import Reader
from structprune.reconstruction.targets import Target, Targets, segments, targets_of

NEGLIGIBLE = 1e-10
"""A layer is left as it is where the squares of its errors are less than this of its outputs' squares."""


def refit(fit: Fit, found: Sequence[Reader]) -> list[str]:
    """Refit layers in their order, in place; return the names of those that changed."""
    changed: list[str] = []
    for segment in segments(fit, found):
        targets = targets_of(fit, segment)
        met = [reader for reader in segment if len(targets.get(reader.name, ())) == len(fit.chunks)]
        # With all inputs in one chunk, a layer can be refitted in the very pass that reaches it.
        steps = [met] if len(fit.chunks) == 1 and met else [[reader] for reader in met]
        for step in steps:
            changed += _refit_step(fit, step, targets)
    return changed


def _refit_step(fit: Fit, step: Sequence[Reader], targets: Targets) -> list[str]:
    refitting = _Refitting(fit, {reader.name: reader for reader in step}, targets)
    for number, chunk in enumerate(fit.chunks):
        refitting.number = number
        run(refitting, chunk)
    return refitting.changed


class _Refitting(Pass):
    """The shrunk network's pass, which sets up the equations and, with the last chunk, solves them."""

    def __init__(self, fit: Fit, wanted: Mapping[str, Reader], targets: Targets) -> None:
        super().__init__(fit, fit.small, wanted)
        self.targets, self.number, self.changed = targets, 0, list[str]()
        self.inputs: dict[str, Tensor] = {}
        self.equations: dict[str, Equations] = {}

    def reads(self, reader: Reader, layer: nn.Module, x: Tensor) -> None:
        if self.closes(reader):
            self.inputs[reader.name] = x.clone()  # what stands in it now may be overwritten by the sum
            return
        self._take(reader, layer, x, self._target(reader).values)
        self._settle(reader, layer)

    def adds(self, reader: Reader, func: Any, end: Tensor, other: Tensor, args: tuple[Any, ...]) -> Any:
        layer = self.model.get_submodule(reader.name)
        norm = None if reader.norm is None else self.model.get_submodule(reader.norm)
        target, x = self._target(reader), self.inputs.pop(reader.name)
        missing = target.values - at_places(layer, other, target.places)
        self._take(reader, layer, x, _before_norm(missing, norm))
        self._settle(reader, layer)
        if reader.name in self.changed:
            again = layer.forward(x)
            end.copy_(again if norm is None else norm.forward(again))
        return func(*args)

    def _target(self, reader: Reader) -> Target:
        return self.targets[reader.name][self.number]

    def _take(self, reader: Reader, layer: nn.Module, x: Tensor, wanted_NPO: Tensor) -> None:
        """Add a chunk's rows, in parts: a row's right-hand side is what the layer as it is falls short of."""
        target = self._target(reader)
        weight = as_columns(layer).double()
        bias = bias_of(layer)
        total = sum(t.places.numel() for t in self.targets[reader.name])
        equations = self.equations.setdefault(
            reader.name,
            Equations(bias is not None or reader.norm is not None, total < weight.shape[1]),
        )
        for part in parts_of(layer, target.places):
            x_part = columns(layer, x[part], target.places[part], target.sizes).double()
            y_part = wanted_NPO[part].double()
            y_part = y_part if bias is None else y_part - bias.double()
            y_part = by_group(layer, y_part)
            equations.add(x_part, y_part - x_part @ weight)
            equations.wanted += float(y_part.square().sum())

    def _settle(self, reader: Reader, layer: nn.Module) -> None:
        """With the last chunk, solve and write; then go on, or stop where nothing else is wanted."""
        if self.number == len(self.fit.chunks) - 1:
            equations = self.equations.pop(reader.name)
            if equations.squares > NEGLIGIBLE * equations.wanted:
                d, c = equations.solve(self.fit.ridge)
                norm = None if reader.norm is None else self.model.get_submodule(reader.norm)
                _write(layer, norm, d, c)
                self.changed.append(reader.name)
        self.stop_at(reader)


def _write(layer: nn.Module, norm: nn.Module | None, d_Gpq: Tensor, c_G1q: Tensor) -> None:
    """Add to a layer's weights, and an offset to its bias or, with the other sign, to the norm's mean."""
    weight = weight_of(layer)
    weight.add_(as_weight(layer, d_Gpq).to(weight.dtype))
    c_O = c_G1q.flatten()
    bias = bias_of(layer)
    if bias is not None:
        bias.add_(c_O.to(bias.dtype))
    elif isinstance(norm, BatchNorm):
        assert norm.running_mean is not None
        norm.running_mean.sub_(c_O.to(norm.running_mean.dtype))


def _before_norm(y_NPO: Tensor, norm: nn.Module | None) -> Tensor:
    """What a batch norm must read to write y; where its scale is next to nothing, its mean."""
    if not isinstance(norm, BatchNorm):
        return y_NPO
    assert norm.running_mean is not None
    scale_O = norm_scale(norm)
    shift_O = 0 if norm.bias is None else norm.bias
    flat_O = scale_O.abs() < 1e-3 * scale_O.abs().median()
    scale_O = scale_O.masked_fill(flat_O, torch.inf)
    return (y_NPO - shift_O) / scale_O + norm.running_mean
