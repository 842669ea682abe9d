"""What is in a file: told from its first bytes, never from its name, and read without running it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from structprune import unpickle
from structprune.errors import InputError, UnsafeCheckpointError

State = dict[str, Tensor]

# Keys under which training scripts keep the state dict, in the order in which they are tried.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "module")
# What data parallelism, torch.compile and Lightning put in front of every name.
PREFIXES = ("module.", "_orig_mod.", "model.")

WEIGHTS = "give the weights: a state dict in .pt, .pth, .safetensors or .npz, or the whole network pickled"


def read_file(path: Path, *, trust_pickle: bool = False) -> nn.Module | State:
    """Read a network or a state dict from a file.

    Args:
        path: an existing file.
        trust_pickle: the user's word that a pickle in it may run code.

    Returns:
        The network where it was pickled whole, otherwise names and tensors, without wrappers and prefixes.

    Raises:
        InputError: the file is of no such kind, damaged, or holds something else.
        UnsafeCheckpointError: reading it would run code.
    """
    try:
        kind = kind_of(path)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    if kind in REFUSALS:
        raise InputError(f"{path.name} {REFUSALS[kind]}")
    if kind == "pickle":
        return unwrap(unpickle.load(path, trust_pickle=trust_pickle), path.name)
    return unwrap(READERS[kind](path), path.name)


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
        names = zipfile.ZipFile(path).namelist()
    except zipfile.BadZipFile:
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
        state: State = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path.name} is damaged or cut short: {error}") from error
    return state


def _read_npz(path: Path) -> State:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise UnsafeCheckpointError(
                f"{path.name} was not read: it holds pickled objects; save plain arrays instead"
            ) from error
        raise InputError(f"{path.name} is damaged: {error}") from error
    except (TypeError, OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path.name} holds what is no tensor, or is damaged: {error}") from error


READERS: Mapping[str, Callable[[Path], State]] = {"safetensors": _read_safetensors, "npz": _read_npz}


def unwrap(content: Any, name: str) -> nn.Module | State:
    """Take a network or a state dict out of what a file holds.

    Args:
        content: a network, a state dict, or a dict of a training script around either.
        name: of the file, for messages.

    Raises:
        InputError: there is neither in it.
    """
    if isinstance(content, nn.Module):
        return content
    if not isinstance(content, Mapping):
        raise InputError(f"{name} holds a {type(content).__name__}; {WEIGHTS}")
    for key in WRAPPERS:
        if isinstance(content.get(key), (Mapping, nn.Module)):
            return unwrap(content[key], name)
    state = {key: value for key, value in content.items() if isinstance(key, str)}
    odd = [key for key, value in content.items() if not isinstance(value, Tensor) or key not in state]
    if odd or not state:
        found = f"{odd[0]!r}, a {type(content[odd[0]]).__name__}" if odd else "nothing"
        raise InputError(f"{name} holds {found} where a state dict has tensors; {WEIGHTS}")
    return _without_prefixes(state)


def _without_prefixes(state: State) -> State:
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _without_prefixes({key.removeprefix(prefix): value for key, value in state.items()})
    return state
