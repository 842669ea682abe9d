"""``plan.json``: how a network was cut, as data that is checked field by field before anything is built."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from structprune.errors import InputError
from structprune.files import read_text
from structprune.models.architecture import Architecture
from structprune.models.widths import Width, Widths

PLAN = "plan.json"
SCHEMA = 1
LARGEST_FILE = 1 << 28
LARGEST_WIDTH = 1 << 31


@dataclass(frozen=True)
class Kept:
    """What stays of one gate.

    Attributes:
        indices: the channels that stay, increasing.
        size: channels there were.
    """

    indices: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as ``model.safetensors`` must hold it.

    Attributes:
        dtype: as safetensors spells it: ``"F32"``.
        shape: of the tensor.
        crc32: checksum of its bytes, which tells tensors of one shape apart.
    """

    dtype: str
    shape: tuple[int, ...]
    crc32: int


@dataclass(frozen=True)
class FileEntry:
    """A file of the result folder as it was written.

    Attributes:
        size: in bytes.
        sha256: checksum of its bytes, in hexadecimal digits.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class PlanFile:
    """Everything that ``plan.json`` says.

    Attributes:
        architecture: what builds the unpruned network, or None for one of the user's own.
        name: of the network, as reports call it.
        input_shape: of one input.
        remove: the fraction asked for.
        unit: of what.
        floor: the fraction of its width that every group was to keep.
        align: the multiple that widths were to be of.
        reached: the fraction that went.
        gates: gate -> what stays of it.
        widths: layer -> attribute -> number, of the cut network.
        dense_widths: the same, of the network before the cut.
        tensors: name -> what the weights file must hold.
        aliases: name -> name of the tensor that it shares.
        files: name -> the file beside the plan, or None in plans of versions that did not write it.
    """

    architecture: Architecture | None
    name: str
    input_shape: tuple[int, ...]
    remove: float
    unit: str
    floor: float
    align: int
    reached: float
    gates: Mapping[str, Kept]
    widths: Widths
    dense_widths: Widths
    tensors: Mapping[str, TensorEntry]
    aliases: Mapping[str, str]
    files: Mapping[str, FileEntry] | None = None


def to_json(plan: PlanFile) -> str:
    """Write a plan, one line a field."""
    fields = {
        "schema": SCHEMA,
        "architecture": plan.architecture
        and {"source": plan.architecture.source, "arguments": dict(plan.architecture.arguments)},
        **{key: getattr(plan, key) for key in ("name", "input_shape")},
        **{key: getattr(plan, key) for key in ("remove", "unit", "floor", "align", "reached")},
        "gates": {gate: {"kept": kept.indices, "size": kept.size} for gate, kept in plan.gates.items()},
        "widths": plan.widths,
        "dense_widths": plan.dense_widths,
        "tensors": {name: [entry.dtype, entry.shape, entry.crc32] for name, entry in plan.tensors.items()},
        "aliases": plan.aliases,
    }
    if plan.files is not None:
        fields["files"] = {name: [entry.size, entry.sha256] for name, entry in plan.files.items()}
    lines = (f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in fields.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_plan(folder: Path) -> PlanFile:
    """Read a result folder's plan and check every field's type and bounds; nothing is built.

    Raises:
        InputError: it is no plan of this schema; the message names the field.
    """
    path = folder / PLAN
    try:
        raw = json.loads(read_text(path, LARGEST_FILE))
    except OSError as error:
        raise InputError(f"{PLAN} of {folder.name} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{PLAN} of {folder.name} is no JSON: {error}") from error
    return from_fields(raw)


def from_fields(raw: Any) -> PlanFile:
    """Make a plan of parsed JSON.

    Raises:
        InputError: a field is missing, of the wrong type or out of bounds.
    """
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        found = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise InputError(f"{PLAN} is of schema {found!r}, and this structprune reads schema {SCHEMA}")
    missing = [key for key in PARSERS if key not in raw]
    if missing:
        raise InputError(f"{PLAN} lacks the field {missing[0]!r}")
    files = _files(raw["files"], "files") if "files" in raw else None
    return PlanFile(**{key: parse(raw[key], key) for key, parse in PARSERS.items()}, files=files)


# One parser a field; each takes a value and where it stands -----------------------------------------------


def _wrong(where: str, value: Any, expected: str) -> InputError:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return InputError(f"{PLAN}: {where} is {shown}, expected {expected}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise _wrong(where, value, "a short text")
    return value


def _whole(value: Any, where: str, low: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value < LARGEST_WIDTH:
        raise _wrong(where, value, f"a whole number from {low} to {LARGEST_WIDTH - 1}")
    return value


def _positive(value: Any, where: str) -> int:
    return _whole(value, where, low=1)


def _fraction(value: Any, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
        raise _wrong(where, value, "a number from 0 to 1")
    return float(value)


def _sizes(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _wrong(where, value, "a list of sizes")
    sizes = tuple(_whole(size, where) for size in value)
    if math.prod(sizes) >= 1 << 50:
        raise _wrong(where, value, "sizes of a tensor that fits in memory")
    return sizes


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, value, "a table")
    return value


def _architecture(value: Any, where: str) -> Architecture | None:
    if value is None:
        return None
    table = _table(value, where)
    source = _text(table.get("source"), f"{where}.source")
    return Architecture(source, _table(table.get("arguments"), f"{where}.arguments"))


def _gates(value: Any, where: str) -> dict[str, Kept]:
    return {
        gate: _kept(_table(entry, f"gate {gate}"), f"gate {gate}")
        for gate, entry in _table(value, where).items()
    }


def _kept(entry: dict[str, Any], where: str) -> Kept:
    size = _positive(entry.get("size"), f"{where}.size")
    indices = entry.get("kept")
    if not isinstance(indices, list):
        raise _wrong(f"{where}.kept", indices, "a list of indices")
    kept = tuple(_whole(index, f"{where}.kept") for index in indices)
    for before, after in pairwise((-1, *kept)):
        if not before < after < size:
            raise _wrong(
                f"{where}.kept", after, f"increasing indices below {size}; the one before is {before}"
            )
    if not kept:
        raise _wrong(f"{where}.kept", indices, "at least one index")
    return Kept(kept, size)


def _widths(value: Any, where: str) -> dict[str, dict[str, Width]]:
    return {
        layer: {
            name: _width(width, f"{where} of {layer}.{name}") for name, width in _table(entry, layer).items()
        }
        for layer, entry in _table(value, where).items()
    }


def _width(value: Any, where: str) -> Width:
    if isinstance(value, list):
        return tuple(_whole(size, where) for size in value)
    return _positive(value, where)


def _tensors(value: Any, where: str) -> dict[str, TensorEntry]:
    return {name: _entry(entry, f"tensor {name}") for name, entry in _table(value, where).items()}


def _entry(entry: Any, where: str) -> TensorEntry:
    if not isinstance(entry, list) or len(entry) != 3:
        raise _wrong(where, entry, "[dtype, shape, crc32]")
    dtype, shape, crc32 = entry
    if not isinstance(crc32, int) or not 0 <= crc32 < 1 << 32:
        raise _wrong(where, crc32, "a checksum of 32 bits")
    return TensorEntry(_text(dtype, where), _sizes(shape, where), crc32)


def _aliases(value: Any, where: str) -> dict[str, str]:
    return {name: _text(target, f"{where}.{name}") for name, target in _table(value, where).items()}


def _files(value: Any, where: str) -> dict[str, FileEntry]:
    return {name: _file(entry, f"file {name}") for name, entry in _table(value, where).items()}


def _file(entry: Any, where: str) -> FileEntry:
    if not isinstance(entry, list) or len(entry) != 2:
        raise _wrong(where, entry, "[size, sha256]")
    size, sha256 = entry
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _wrong(where, size, "a size in bytes")
    return FileEntry(size, _text(sha256, where))


PARSERS: Mapping[str, Callable[[Any, str], Any]] = {
    "architecture": _architecture,
    "name": _text,
    "input_shape": _sizes,
    "remove": _fraction,
    "unit": _text,
    "floor": _fraction,
    "align": _positive,
    "reached": _fraction,
    "gates": _gates,
    "widths": _widths,
    "dense_widths": _widths,
    "tensors": _tensors,
    "aliases": _aliases,
}
