"""NumPy's files, their headers held against their sizes before an array is made."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from structprune.errors import InputError
from structprune.files.archives import check_archive
from structprune.files.regular import check_regular
from structprune.files.words import counted, shown

Array = NDArray[Any]

UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    EOFError,
    MemoryError,
    OverflowError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy raises on files that are no archive, cut off, damaged, encrypted, or hold pickled objects."""

ENDING = ".npy"


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in an ``.npz``, without the endings.

    Raises:
        InputError: it is no regular file, or would unpack to more than fits in a file of its size.
        UNREADABLE: it is no such archive.
    """
    return tuple(member.filename.removesuffix(ENDING) for member in check_archive(path))


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, Array]:
    """Arrays of an ``.npz`` in its order, or the lone array of an ``.npy`` under the name ``""``.

    Args:
        path: the file.
        names: arrays that are wanted; None for all.

    Raises:
        InputError: it is no regular file, or claims to hold more than it does.
        UNREADABLE: it is no such file, is damaged, or holds pickled objects.
    """
    check_regular(path)
    # A file of our own: np.load leaves the one it opened open when it fails.
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
        file.seek(0)
        if not is_archive:
            return {"": _lone(file, path)}
    members = check_archive(path)
    wanted = [m for m in members if names is None or m.filename.removesuffix(ENDING) in names]
    with zipfile.ZipFile(path) as archive:
        return {member.filename.removesuffix(ENDING): _member(archive, member, path) for member in wanted}


def _lone(file: IO[bytes], path: Path) -> Array:
    _check_header(file, path.stat().st_size, path.name)
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Array:
    with archive.open(member) as file:
        _check_header(file, member.file_size, f"{shown(member.filename)} of {path.name}")
    with archive.open(member) as file:
        return npy.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], size: int, what: str) -> None:
    """Hold the shape in a header against the bytes behind it; NumPy takes memory by the shape alone."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed > there or min(shape, default=0) < 0:
        raise InputError(
            f"{what} is damaged or cut short: its shape {list(shape)} takes {counted(claimed)}, "
            f"and there are {counted(max(there, 0))}"
        )
