"""On what a module and its ONNX file are compared: batch sizes, scales and sizes of the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from exporters.runtime.networks import of_batch
from exporters.runtime.providers import Session, fed_names

SCALES = (0.1, 10.0)
"""What inputs with a fraction are multiplied by, beside 1: other values may take another way."""

LARGE_BATCH = 33
"""Above 32; a network may go another way from some batch size on."""

BATCH = "a batch of "
"""How the names of batches begin."""

LARGEST_BATCH = 4096
"""The bound of a larger one is the exporter's and not the network's."""

FEW = 2
"""Inputs in a setting that differs in more than the batch size."""


@dataclass(frozen=True)
class Setting:
    """Inputs to compare on.

    Attributes:
        name: in words, for the proof.
        inputs: what both take.
        usual: whether these are the proof's inputs as they are, which the module must be able to take, and
            over whose outputs the spread counts.
    """

    name: str
    inputs: tuple[Tensor, ...]
    usual: bool = False


def settings(
    inputs: tuple[Tensor, ...],
    session: Session,
    batches: Sequence[int],
    large: int | None,
    scales: Sequence[float],
) -> Iterator[Setting]:
    """Yield all settings.

    Args:
        inputs: N inputs, each tensor of shape [N, ...].
        session: of the file, whose dynamic dimensions get another size.
        batches: sizes n; the first n inputs each.
        large: a batch size for which the inputs come over and over, or None.
        scales: factors on inputs with a fraction; whole numbers stay.
    """
    for n in batches:
        yield Setting(f"{BATCH}{n}", first(inputs, n), usual=True)
    if large:
        yield Setting(f"{BATCH}{large}", of_batch(inputs, large))
    few = first(inputs, FEW)
    for factor in scales if any(x.is_floating_point() for x in few) else ():
        scaled = tuple(x * factor if x.is_floating_point() else x for x in few)
        yield Setting(f"inputs times {factor:g}", scaled)
    dims = _dynamic_dims(session, few)
    for name, factor in (("twice the size", 2.0), ("half the size", 0.5)):
        resized = tuple(_resized(x, along, factor) for x, along in zip(few, dims, strict=True))
        if [x.shape for x in resized] != [x.shape for x in few]:
            yield Setting(f"{name}, {', '.join(str(tuple(x.shape[1:])) for x in resized)}", resized)


def next_batch(most: int | None) -> int:
    """Return a large batch that goes another way than up to ``most``, as far as an exporter knows.

    Example:
        >>> next_batch(None), next_batch(16), next_batch(64)
        (33, 33, 65)
    """
    return max(LARGE_BATCH, most + 1) if most is not None and most < LARGEST_BATCH else LARGE_BATCH


def first(inputs: tuple[Tensor, ...], n: int) -> tuple[Tensor, ...]:
    """Return the first n of several inputs; a tensor without dimensions stays as it is."""
    return tuple(x[:n] if x.dim() else x for x in inputs)


def _dynamic_dims(session: Session, inputs: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    """Return, for each input, the dimensions after the batch to which the file gives no fixed size."""
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    return [
        tuple(dim for dim, size in enumerate(shapes.get(name, ())) if dim and not isinstance(size, int))
        for name in fed_names(session, len(inputs))
    ]


def _resized(x: Tensor, dims: tuple[int, ...], factor: float) -> Tensor:
    """Repeat or cut a tensor along dimensions: its values stay among those that it has."""
    for dim in dims:
        size = max(1, int(x.shape[dim] * factor))
        x = x.index_select(dim, torch.arange(size) % x.shape[dim])
    return x
