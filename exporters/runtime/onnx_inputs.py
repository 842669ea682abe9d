"""Random inputs for an ONNX file that comes without its module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporters.runtime.providers import open_session
from structprune.errors import InputError, argument

EXAMPLES = 3
IMAGE = 3
"""Sizes of an image: channels, height, width."""
FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
WHOLE = {"tensor(int64)": torch.int64, "tensor(int32)": torch.int32, "tensor(bool)": torch.bool}

Size = tuple[int | None, ...]


def check_inputs(path: Path, given: Sequence[Tensor]) -> None:
    """Refuse inputs that a file does not take.

    Args:
        path: the ONNX file.
        given: one tensor an input, of shape [B, ...].

    Raises:
        InputError: the file can't be opened, has no inputs, or takes others.
    """
    entries = _entries(path)
    wanted = [_size(entry) for entry in entries]
    sizes = [tuple(x.shape[1:]) for x in given]
    if len(sizes) != len(wanted) or not all(map(_fits, sizes, wanted)):
        raise InputError(f"{path.name} takes inputs of sizes {_listed(wanted)}; got {_listed(sizes)}")
    for entry, x in zip(entries, given, strict=True):
        if (entry.type in FLOATS) != x.is_floating_point():
            raise InputError(f"{path.name} takes {entry.type} as {entry.name!r}; got {x.dtype}")


def _fits(size: Size, wanted: Size) -> bool:
    return len(size) == len(wanted) and all(n is None or m == n for m, n in zip(size, wanted, strict=True))


def _listed(sizes: Sequence[Size]) -> str:
    return " and ".join(str(size).replace("None", "any") for size in sizes)


def random_inputs(path: Path, size: Sequence[int] | None = None, seed: int = 0) -> tuple[Tensor, ...]:
    """Draw inputs that a file takes: normal numbers, and zeros and ones where it wants whole numbers.

    Args:
        path: the ONNX file.
        size: of one input, for a file that leaves it open.
        seed: of the draw.

    Returns:
        One tensor an input, of shape [B, ...]; B is 3 where the file leaves the batch open.

    Raises:
        InputError: the file can't be opened, takes another size, or leaves one open that was not given.
    """
    entries, generator = _entries(path), torch.Generator().manual_seed(seed)
    wanted = [_size(entry) for entry in entries]
    if size is not None and not any(_fits(tuple(size), own) for own in wanted):
        raise InputError(f"{path.name} takes inputs of sizes {_listed(wanted)}; got {tuple(size)}")
    return tuple(_drawn(path, entry, size, generator) for entry in entries)


def _entries(path: Path) -> list[Any]:
    entries = list(open_session(path).get_inputs())
    if not entries or any(not entry.shape for entry in entries):
        raise InputError(f"{path.name} has no inputs with a batch dimension, so there is nothing to time")
    return entries


def _size(entry: Any) -> Size:
    return tuple(length if isinstance(length, int) else None for length in entry.shape[1:])


def _drawn(path: Path, entry: Any, size: Sequence[int] | None, generator: torch.Generator) -> Tensor:
    own = _size(entry)
    if size is not None and _fits(tuple(size), own):
        own = tuple(size)
    if None in own:
        raise InputError(
            f"{path.name} leaves the size of {entry.name!r} open: {_listed([own])}; give "
            f"{argument('input_size', 'C H W') if len(own) == IMAGE else argument('input', 'FILE')}"
        )
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else EXAMPLES
    shape = (batch, *(length or 0 for length in own))
    if entry.type in FLOATS:
        return torch.randn(shape, generator=generator).to(FLOATS[entry.type])
    if entry.type in WHOLE:
        return torch.randint(0, 2, shape, generator=generator).to(WHOLE[entry.type])
    raise InputError(f"{path.name} takes {entry.type} as {entry.name!r}; expected one of {[*FLOATS, *WHOLE]}")
