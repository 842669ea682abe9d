"""What is in a file: told from its first bytes, never from its name, and read without running it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from structprune.errors import InputError, UnsafeCheckpointError
from structprune.files import UNREADABLE, check_regular, counted, members_of, read_arrays
from structprune.models import unpickle
from structprune.models.tensors import SAFETENSORS_TYPES, stored_as
from structprune.models.weight_sets import WEIGHTS

State = dict[str, Tensor]

LARGEST_HEADER = 1 << 26
"""Bytes that the header of a safetensors file has at most: half a million tensors."""


def read_file(path: Path, *, trust_pickle: bool = False) -> Any:
    """Read what a file of weights holds.

    Args:
        path: an existing file.
        trust_pickle: the user's word that a pickle in it may run code.

    Returns:
        What was saved: a network, names and tensors, or what a training script put around such.

    Raises:
        InputError: the file is no regular one, of no such kind, damaged, or larger unpacked than it can be.
        UnsafeCheckpointError: reading it would run code.
    """
    check_regular(path)
    try:
        kind = kind_of(path)
    except OSError as error:
        raise InputError(f"{path.name} can't be read: {error.strerror}") from error
    if kind in REFUSALS:
        raise InputError(f"{path.name} {REFUSALS[kind]}")
    if kind == "pickle":
        return unpickle.load(path, trust_pickle=trust_pickle)
    return READERS[kind](path)


FIXED = (
    "whose graph is fixed and can't be cut; give the state dict of the PyTorch network that it was made from"
)

REFUSALS: Mapping[str, str] = {
    "empty": f"is empty; {WEIGHTS}",
    "text": f"is a text file; {WEIGHTS}",
    "torchscript": f"is a TorchScript file, {FIXED}",
    "exported": f"is an exported program, {FIXED}",
    "onnx": f"is an ONNX file, {FIXED}",
    "zip": f"is a zip file without a checkpoint in it; {WEIGHTS}",
    "unknown": f"is of no kind that structprune knows, or cut short; {WEIGHTS}",
}


def kind_of(path: Path) -> str:
    """Tell what a file holds: ``pickle``, ``safetensors``, ``npz``, or a key of :data:`REFUSALS`."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        return "empty"
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if head[:1] == b"\x80" or _is_text_pickle(path, head):
        return "pickle"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    if _is_text(head):
        return "text"
    return "onnx" if _is_onnx(path, head) else "unknown"


def _kind_of_zip(path: Path) -> str:
    try:
        names = [member.filename for member in members_of(path)]
    except (zipfile.BadZipFile, ValueError):
        return "pickle"  # cut short: its reader says so
    endings = {name.rpartition("/")[2] for name in names}
    if any("/code/" in name or name.startswith("code/") for name in names):
        return "torchscript"
    if endings & {"archive_format", "serialized_exported_program.json"}:
        return "exported"
    if "data.pkl" in endings:
        return "pickle"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "zip"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # a character cut off by the reading is none to complain of
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\r\n\t\f" for character in text)


def _is_text_pickle(path: Path, head: bytes) -> bool:
    """Pickles of protocol 0 have no magic number and look like text."""
    return head[:1] in b"c(]}lid" and b"." in head and any(True for _ in unpickle.globals_of(path))


def _is_onnx(path: Path, head: bytes) -> bool:
    """An ONNX model opens with field 1, its version as one small number, and mostly field 2, its producer."""
    return path.suffix == ".onnx" or (
        head[:1] == b"\x08" and head[1:2] < b"\x20" and head[2:3] in (b"\x12", b":")
    )


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        _check_safetensors(path)
        state: State = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, MemoryError) as error:
        raise InputError(f"{path.name} is damaged or cut short: {unpickle.first_line(error)}") from error
    return state


def _check_safetensors(path: Path) -> None:
    """Hold the header's length against the file's, and every tensor's type against those that hold values."""
    from safetensors import safe_open

    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(path.stat().st_size, LARGEST_HEADER):
        raise InputError(
            f"{path.name} is damaged or cut short: its header claims {counted(header)}, of "
            f"{counted(path.stat().st_size)} in all and at most {counted(LARGEST_HEADER)}"
        )
    with safe_open(path, framework="pt") as content:
        for name in content.keys():  # noqa: SIM118  it is no dict
            kind = content.get_slice(name).get_dtype()
            if kind not in SAFETENSORS_TYPES:
                raise InputError(stored_as(path.name, name, kind))


def _read_npz(path: Path) -> State:
    try:
        return {name: torch.from_numpy(array.copy()) for name, array in read_arrays(path).items()}
    except UNREADABLE as error:
        if "allow_pickle" in str(error):
            raise UnsafeCheckpointError(
                f"{path.name} was not read: it holds pickled objects; save plain arrays instead"
            ) from error
        reason = unpickle.first_line(error)
        raise InputError(f"{path.name} holds what is no tensor, or is damaged: {reason}") from error


READERS: Mapping[str, Callable[[Path], State]] = {"safetensors": _read_safetensors, "npz": _read_npz}
