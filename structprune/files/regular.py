"""Regular files, the only kind that can be read to an end and read again."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from structprune.errors import InputError
from structprune.files.words import counted, shown

LARGEST_TEXT = 1 << 28

KINDS: Mapping[str, Callable[[int], bool]] = {
    "a folder": stat.S_ISDIR,
    "a named pipe": stat.S_ISFIFO,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    "a socket": stat.S_ISSOCK,
}


def check_regular(path: Path, name: str | None = None) -> os.stat_result:
    """Refuse what is no regular file, without opening it: opening a pipe waits for whoever writes into it.

    Args:
        path: a file, or a link to one.
        name: of the file, for messages; None: its own, without its folder.

    Returns:
        What the system says of it.

    Raises:
        InputError: it is not there, can't be looked at, or is of another kind.
    """
    name = name or shown(path.name or path)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(f"{name} can't be read: {reason}") from error
    _check_kind(status, name)
    return status


def _check_kind(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for kind, is_kind in KINDS.items() if is_kind(status.st_mode)), "of another kind")
        raise InputError(f"{name} is {kind}; expected a regular file")


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """Text of a regular file in UTF-8.

    Args:
        path: the file.
        most: bytes that a file of its kind has at most.

    Raises:
        InputError: it is no regular file, or larger.
        OSError: it can't be read.
        ValueError: it is no text.
    """
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):  # which opening refuses, in the system's words
        _check_kind(status, shown(path.name))
    if status.st_size > most:
        raise InputError(f"{path.name} has {counted(status.st_size)}; expected {counted(most)} at most")
    return path.read_text(encoding="utf-8")
