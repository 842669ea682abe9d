"""What a pickle names, read off its program without running it."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from structprune.errors import InputError


def globals_of(path: Path) -> Iterator[str]:
    """Yield ``module.name`` of every global that the pickles in a file name, without executing any.

    Raises:
        InputError: the file is damaged or cut short.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith("data.pkl"):
                        yield from _globals_in(archive.open(member))
            return
        with path.open("rb") as file:
            yield from _globals_in_legacy(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path.name} is damaged or cut short: {first_line(error)}") from error


def _globals_in_legacy(file: IO[bytes]) -> Iterator[str]:
    """The older form is five pickles and then raw storages; a raw pickle is one."""
    for _ in range(5):
        try:
            yield from _globals_in(file)
        except ValueError:  # storages, or the file's end
            return


def _globals_in(file: IO[bytes]) -> Iterator[str]:
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield _modern(*str(argument).split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            # The two strings in front. Where they come from the memo this name is wrong, which only the
            # message shows: torch's reader does not know the opcode and refuses it.
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)


def _modern(module: str, name: str) -> str:
    """The full name in Python 3 of a global that protocol 2 may name as in Python 2: ``__builtin__ set``."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that torch writes below it."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
