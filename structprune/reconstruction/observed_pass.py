"""Passes through a network in which some layers are seen, and the sums that they close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from structprune.reconstruction.normal_equations import RIDGE
from structprune.reconstruction.refittable_layers import Hook, Reader, addition, hooked, input_of

Inputs = tuple[Tensor, ...]

PLACES = 32
"""Of a map, at most, that one sample is fitted at; four times as many bring nothing on a ResNet-20."""


@dataclass(frozen=True)
class Fit:
    """What is fitted to what.

    Attributes:
        dense: the network before the cut, in evaluation mode.
        small: the cut one, whose layers are changed.
        kept: layer -> which outputs of the dense layer it still has; a layer without a name has all.
        chunks: the inputs, in parts that fit into memory.
        sums: whether what closes a sum is fitted to the sum.
        places: of a map, at most, that one sample is fitted at.
        ridge: of the mean diagonal of the normal equations.
        seed: of the places.
    """

    dense: nn.Module
    small: nn.Module
    kept: Mapping[str, Tensor]
    chunks: Sequence[Inputs]
    sums: bool = True
    places: int = PLACES
    ridge: float = RIDGE
    seed: int = 0


class Arrived(BaseException):
    """The pass has reached the last layer that it was run for; no network may catch it."""


class Pass(TorchFunctionMode):
    """A pass through a network in which some layers, and the sums that they close, are seen."""

    def __init__(self, fit: Fit, model: nn.Module, wanted: Mapping[str, Reader]) -> None:
        super().__init__()
        self.fit, self.model, self.wanted = fit, model, wanted
        self.last = list(wanted)[-1]
        self.ends: dict[str, Tensor] = {}

    def hooks(self) -> list[tuple[nn.Module, Hook, Hook | None]]:
        """What is to be called before and after the network's modules."""
        found: list[tuple[nn.Module, Hook, Hook | None]] = []
        for name, reader in self.wanted.items():
            layer = self.model.get_submodule(name)
            found.append((layer, self._before(reader), self._after(reader)))
            if self.closes(reader) and reader.norm is not None:
                found.append((self.model.get_submodule(reader.norm), _nothing, self._ended(reader)))
        return found

    def closes(self, reader: Reader) -> bool:
        """Tell whether a layer is settled where a sum is taken."""
        return reader.closes and self.fit.sums

    def _before(self, reader: Reader) -> Hook:
        def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.reads(reader, layer, input_of(args, kwargs))

        return before

    def _after(self, reader: Reader) -> Hook:
        def after(layer: nn.Module, _: Any, y: Tensor) -> None:
            self.writes(reader, layer, y)
            if self.closes(reader) and reader.norm is None:
                self.ends[reader.name] = y

        return after

    def _ended(self, reader: Reader) -> Hook:
        def after(_: nn.Module, __: Any, y: Tensor) -> None:
            self.ends[reader.name] = y

        return after

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.ends and addition(func, args, kwargs or {}):
            name = next((n for n, end in self.ends.items() if any(x is end for x in args)), None)
            if name is not None:
                own = args[0] is self.ends.pop(name)
                return self.adds(self.wanted[name], func, args[0 if own else 1], args[1 if own else 0], args)
        return func(*args, **(kwargs or {}))

    def reads(self, reader: Reader, layer: nn.Module, x: Tensor) -> None:
        """A layer is called."""

    def writes(self, reader: Reader, layer: nn.Module, y: Tensor) -> None:
        """It has returned."""

    def adds(self, reader: Reader, func: Any, end: Tensor, other: Tensor, args: tuple[Any, ...]) -> Any:
        """What it wrote is added to something."""
        return func(*args)

    def stop_at(self, reader: Reader) -> None:
        """End the pass where a layer is the last that is wanted."""
        if reader.name == self.last:
            raise Arrived


def _nothing(*_: Any) -> None:
    pass


def run(seen: Pass, chunk: Inputs) -> None:
    """Run a pass's network up to the last layer that is wanted of it."""
    with torch.no_grad(), hooked(seen.hooks()), seen:
        try:
            seen.model(*chunk)
        except Arrived:
            return
