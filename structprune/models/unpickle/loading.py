"""A file's content, read under the allow-list."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from structprune.errors import InputError, UnsafeCheckpointError
from structprune.files import check_archive, check_regular, counted
from structprune.models.unpickle.allowed import allowed_globals
from structprune.models.unpickle.names import PROGRAM, first_line, globals_of, is_archive
from structprune.models.unpickle.records import TRUST, Builder, record_class

ALLOCATING = frozenset({"builtins.bytearray"})
"""What takes as much memory as a number in the file says, beside torch's constructors of tensors by type."""

PROGRAM_BYTES, STORAGE_BYTES = 1 << 24, 1 << 10
"""Bytes that a pickle may have, in all and for each member of the zip; a tensor takes about 150."""


def load(path: Path, *, trust_pickle: bool = False) -> Any:
    """Read a file written by ``torch.save``: a state dict, a dict around one, or a whole network.

    Args:
        path: the file, in torch's zip form or in the older one.
        trust_pickle: the user's word that the file may run code; everything is then unpickled as it stands.

    Returns:
        What was saved, on the CPU.

    Raises:
        UnsafeCheckpointError: reading it would import or call what is not on the allow-list.
        InputError: the file is damaged or cut short.
    """
    check_regular(path)
    if trust_pickle:
        return _load_trusted(path)
    _check_sizes(path)
    names = list(dict.fromkeys(globals_of(path)))
    records = {name: record_class(name, target) for name, target in allowed_globals(names).items()}
    with torch.serialization.safe_globals(list(records.values())):
        _refuse_unknown(path, names, set(records))
        raw = _load_weights_only(path)
    try:
        return Builder().build(raw)
    except RecursionError as error:
        raise InputError(f"{path.name} nests too deeply to be a network") from error


def _check_sizes(path: Path) -> None:
    """Refuse a zip whose pickle is longer than what describes its tensors, or that unpacks to too much.

    Every byte of the pickle may become an object of a hundred.
    """
    if not is_archive(path):
        return
    try:
        members = check_archive(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path.name} is damaged or cut short: {first_line(error)}") from error
    most = PROGRAM_BYTES + STORAGE_BYTES * len(members)
    for member in members:
        if member.filename.endswith(PROGRAM) and member.file_size > most:
            raise InputError(
                f"{path.name} was not read: its {PROGRAM} unpacks to {counted(member.file_size)}, and what "
                f"describes the tensors of such a file to {counted(most)} at most; save the state dict alone"
            )


def _load_trusted(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # the pickle runs foreign code, which may raise anything
        raise InputError(f"{path.name} can't be unpickled: {first_line(error)}") from error


def _load_weights_only(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # Pickle protocols other than 2 and TypedStorage are torch's business, not the reader's.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(_refusal(path, _reason(error))) from error
    except RecursionError as error:
        raise InputError(f"{path.name} nests too deeply to be a network") from error
    except Exception as error:  # damaged files make torch raise anything, and nothing of theirs was run
        raise InputError(f"{path.name} is damaged or cut short: {first_line(error)}") from error


def _reason(error: pickle.UnpicklingError) -> str:
    """Torch's own reason, without its advice to load the file unsafely."""
    _, _, reason = str(error).partition("WeightsUnpickler error: ")
    if "persistent_load" in reason:
        return "it is a whole network in torch's older form, which carries source code"
    return first_line(Exception(reason.strip() or str(error))).partition(" was not an allowed")[0]


def _refuse_unknown(path: Path, names: list[str], allowed: set[str]) -> None:
    # torch.serialization.get_unsafe_globals_in_checkpoint says the same, but of zip files of protocol 2 only.
    from torch._weights_only_unpickler import _get_allowed_globals

    allocating = ALLOCATING | {f"{kind.__module__}.{kind.__name__}" for kind in torch._tensor_classes}
    known = {name for name in names if name in _get_allowed_globals()} - allocating
    unsafe = {name for name in names if name not in allowed and name not in known}
    if unsafe:
        raise UnsafeCheckpointError(_refusal(path, "it names " + ", ".join(sorted(unsafe))))


def _refusal(path: Path, why: str) -> str:
    return (
        f"{path.name} was not read: {why}, and only tensors and the classes of known networks are allowed;"
        f" save the state dict instead (torch.save(model.state_dict(), ...)), or {TRUST}"
    )
