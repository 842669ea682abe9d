"""What the dense network's layers write, at the outputs that stay and at some places: what is to come out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor, nn

from structprune.reconstruction.im2col import as_columns, at_places, draw_places, map_sizes
from structprune.reconstruction.observed_pass import Fit, Pass, run
from structprune.reconstruction.refittable_layers import Reader

MOST_ROWS_KEPT = 8192
"""Of equations with more columns than that, which are solved by rows."""
TARGET_BYTES = 2**29
"""Of targets that are held at once."""


@dataclass(frozen=True)
class Target:
    """What a layer, or the sum that it closes, is to be, for one chunk.

    Attributes:
        places: (N, P) places of the output.
        sizes: of the output's map.
        values: (N, P, O) the dense network's values there.
    """

    places: Tensor
    sizes: tuple[int, ...]
    values: Tensor


Targets = dict[str, list[Target]]


def segments(fit: Fit, found: Sequence[Reader]) -> Iterator[list[Reader]]:
    """Split layers so that the targets of a part fit into memory."""
    samples = sum(len(chunk[0]) for chunk in fit.chunks)
    segment: list[Reader] = []
    held = 0
    for reader in found:
        size = 4 * samples * min(reader.outputs, fit.places * _width(fit, reader))
        if segment and held + size > TARGET_BYTES:
            yield segment
            segment, held = [], 0
        segment.append(reader)
        held += size
    if segment:
        yield segment


def _width(fit: Fit, reader: Reader) -> int:
    return int(as_columns(fit.small.get_submodule(reader.name)).shape[::2].numel())


def targets_of(fit: Fit, segment: Sequence[Reader]) -> Targets:
    """Return what the dense network writes at the outputs that stay: layer -> a target a chunk."""
    generator = Generator().manual_seed(fit.seed)
    taken = _Taken(fit, {reader.name: reader for reader in segment}, generator, {})
    for chunk in fit.chunks:
        run(taken, chunk)
    return taken.targets


class _Taken(Pass):
    """The dense network's pass, which notes what its layers write."""

    def __init__(
        self, fit: Fit, wanted: Mapping[str, Reader], generator: Generator, targets: Targets
    ) -> None:
        super().__init__(fit, fit.dense, wanted)
        self.generator, self.targets = generator, targets
        self.drawn: dict[str, tuple[Tensor, tuple[int, ...]]] = {}

    def writes(self, reader: Reader, layer: nn.Module, y: Tensor) -> None:
        sizes = map_sizes(layer, y)
        self.drawn[reader.name] = draw_places(len(y), sizes, self._most(reader), self.generator), sizes
        if not self.closes(reader):
            self._note(reader, layer, y)

    def adds(self, reader: Reader, func: Any, end: Tensor, other: Tensor, args: tuple[Any, ...]) -> Any:
        result: Tensor = func(*args)
        self._note(reader, self.model.get_submodule(reader.name), result)
        return result

    def _most(self, reader: Reader) -> int:
        """Fewer places where the equations would be too wide: rows are kept then, up to a number."""
        layer = self.fit.small.get_submodule(reader.name)
        samples = sum(len(chunk[0]) for chunk in self.fit.chunks)
        if as_columns(layer).shape[1] > MOST_ROWS_KEPT:
            return max(1, min(self.fit.places, MOST_ROWS_KEPT // samples))
        return self.fit.places

    def _note(self, reader: Reader, layer: nn.Module, y: Tensor) -> None:
        places, sizes = self.drawn.pop(reader.name)
        values = at_places(layer, y, places)
        kept = self.fit.kept.get(reader.name)
        values = values.clone() if kept is None else values[..., kept.to(values.device)]
        self.targets.setdefault(reader.name, []).append(Target(places, sizes, values))
        self.stop_at(reader)
