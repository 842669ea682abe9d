"""What a pickle names, read off its program without running it."""

from __future__ import annotations

import mmap
import pickletools
import zipfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from structprune.errors import InputError

Program: TypeAlias = bytes | mmap.mmap
Span: TypeAlias = tuple[int, int]

ZIP = b"PK\x03\x04"
PROGRAM = "data.pkl"
PICKLES = 5
"""In a file of the older form: a magic number, a version, the machine, the content and the storages' keys."""


NO_OPCODE = -100


def _sizes() -> Sequence[int]:
    """Opcode -> bytes of its argument; negative where the argument says so itself, or there is no opcode."""
    sizes = [NO_OPCODE] * 256
    for opcode in pickletools.opcodes:
        sizes[ord(opcode.code)] = 0 if opcode.arg is None else opcode.arg.n
    return sizes


SIZES = _sizes()
STOP, GLOBAL, INST, STACK_GLOBAL = b".ci\x93"
STRINGS = frozenset(ord(o.code) for o in pickletools.opcodes if "UNICODE" in o.name)
PLAIN = frozenset(code for code, size in enumerate(SIZES) if size >= 0) - {STOP, STACK_GLOBAL}
"""Opcodes that say nothing here, with arguments of one size."""

LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
"""Bytes of the number in front of an argument that says how long it is."""


def is_archive(path: Path) -> bool:
    """Whether torch reads a file as a zip: it goes by the first bytes."""
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def globals_of(path: Path) -> Iterator[str]:
    """Yield ``module.name`` of every global that the pickles in a file name, without executing any.

    Raises:
        InputError: the file is damaged or cut short.
    """
    try:
        if is_archive(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    if member.filename.endswith(PROGRAM):
                        yield from _globals_in([archive.read(member)])
            return
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield from _globals_in([content], PICKLES)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path.name} is damaged or cut short: {first_line(error)}") from error
    except ValueError:  # storages behind the pickles, or the file's end: its reader says so
        return


def _globals_in(programs: Sequence[Program], pickles: int = 1) -> Iterator[str]:
    for program in programs:
        start = 0
        for _ in range(pickles):
            start = yield from _scanned(program, start)


def _scanned(program: Program, position: int) -> Generator[str, None, int]:
    """Yield the globals of one pickle and return where it ends.

    A loop of its own, for ``pickletools.genops`` takes half a minute for 100,000 tensors.

    Raises:
        ValueError: a byte is no opcode, or the program ends before its end.
    """
    strings: tuple[Span, Span] = ((0, 0), (0, 0))
    end = len(program)
    while position < end:
        opcode = program[position]
        if opcode in PLAIN:  # by far the most, so first and without a call
            position += 1 + SIZES[opcode]
            continue
        begin, position = _argument(program, position + 1, opcode)
        if opcode in STRINGS:
            strings = (strings[1], (begin, position))
        elif opcode in (GLOBAL, INST):
            module, _, name = _text(program, (begin, position)).partition("\n")
            yield _modern(module, name)
        elif opcode == STACK_GLOBAL:
            # The two strings in front. Where they come from the memo this name is wrong, which only the
            # message shows: torch's reader does not know the opcode and refuses it.
            yield ".".join(_text(program, span) for span in strings)
        elif opcode == STOP:
            return position
    raise ValueError("the pickle has no end")


def _argument(program: Program, start: int, opcode: int) -> Span:
    """Where an opcode's argument begins and ends, without the number in front that says how long it is."""
    size = SIZES[opcode]
    if size == NO_OPCODE:
        raise ValueError(f"the byte {opcode} is no opcode")
    if size >= 0:
        return start, start + size
    if size == pickletools.UP_TO_NEWLINE:
        first = program.find(b"\n", start) + 1
        last = program.find(b"\n", first) + 1 if opcode in (GLOBAL, INST) else first
        if not first or not last:
            raise ValueError("a line of the pickle has no end")
        return start, last
    begin = start + LENGTHS[size]
    return begin, begin + int.from_bytes(program[start:begin], "little")


def _text(program: Program, span: Span) -> str:
    return program[span[0] : span[1]].decode("utf-8", "backslashreplace").rstrip("\n")


def _modern(module: str, name: str) -> str:
    """The full name in Python 3 of a global that protocol 2 may name as in Python 2: ``__builtin__ set``."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that torch writes below it."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
