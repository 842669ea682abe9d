"""Zip files by their directories: how much their members unpack to, known before any is unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from structprune.errors import InputError
from structprune.files.regular import check_regular
from structprune.files.words import counted, shown

Member: TypeAlias = zipfile.ZipInfo

ALLOWANCE = 1 << 28
"""Bytes that any archive may unpack to."""

RATIO = 32
"""Bytes that a packed byte may unpack to beyond that. Weights of which 98 % are zero reach about 15."""


def members_of(path: Path) -> tuple[Member, ...]:
    """Members of a zip file as its directory lists them; nothing is unpacked.

    Raises:
        InputError: it is no regular file.
        OSError, ValueError, zipfile.BadZipFile: it is no zip file, or its directory is damaged.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.infolist())
    except NotImplementedError as error:  # a version of the format that zipfile does not know
        raise zipfile.BadZipFile(str(error)) from error


def check_archive(path: Path) -> tuple[Member, ...]:
    """Refuse a zip file that unpacks to more than weights or images in a file of its size could.

    Returns:
        Its members.

    Raises:
        InputError: it is no regular file, or would unpack to more.
        OSError, ValueError, zipfile.BadZipFile: it is no zip file, or its directory is damaged.
    """
    members = members_of(path)
    check_members(members, path)
    return members


def largest_unpacked(path: Path) -> int:
    """Bytes that weights or images in a file of that size take at most."""
    return max(ALLOWANCE, RATIO * path.stat().st_size)


def check_members(members: Sequence[Member], path: Path) -> None:
    """Hold what the members unpack to against the size of the file.

    Raises:
        InputError: they are more than the file can hold, or unpack to more than any data in it would.
    """
    size = path.stat().st_size
    if sum(member.compress_size for member in members) > size:
        raise InputError(f"{path.name} is damaged: its members are larger than the file")
    unpacked = sum(member.file_size for member in members)
    most = largest_unpacked(path)
    if unpacked > most:
        largest = max(members, key=lambda member: member.file_size)
        raise InputError(
            f"{path.name} was not read: its {counted(size)} unpack to {counted(unpacked)}, of which "
            f"{shown(largest.filename)} is {counted(largest.file_size)}; weights or images in a file of its "
            f"size unpack to {counted(most)} at most"
        )
