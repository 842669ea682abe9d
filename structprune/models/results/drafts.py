"""Drafts: marked folders beside a target, in which files are made before they get their names.

A draft is locked as long as its process lives. What a killed process left is not, and is removed by the next
run to the same target: by its mark, never by its name alone.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from structprune.errors import OutputError

MARKER = ".structprune-draft"
MARK = "Made by a structprune run that has not ended; the next run to the same place removes this folder.\n"
ATTEMPTS = 100

Kind = Literal["new", "old"]
PREFIXES: Mapping[Kind, str] = {"new": ".{}.new-", "old": "{}.old-"}
"""Of the folders in which something is made, and of those in which something replaced waits to be removed."""

LONGEST_NAME = 64
"""Characters of the target's name in a prefix, so that a long one does not become too long."""


@dataclass(frozen=True)
class Draft:
    """A folder of this process.

    Attributes:
        folder: where it is.
        lock: descriptor that holds it.
    """

    folder: Path
    lock: int

    def unmark(self) -> None:
        """Take its mark away: what it holds is whole."""
        (self.folder / MARKER).unlink()

    def release(self) -> None:
        """Let other processes have it."""
        os.close(self.lock)


@contextmanager
def draft(target: Path) -> Iterator[Draft]:
    """Yield a marked and locked folder beside ``target``; it is removed at the end, unless it has no mark.

    Raises:
        OSError: nothing can be made there.
    """
    made = fresh(target)
    try:
        yield made
    finally:
        if is_marked(made.folder):
            discard(made.folder)
        made.release()


def fresh(target: Path, kind: Kind = "new") -> Draft:
    """Make a marked and locked folder beside ``target``.

    Raises:
        OSError: nothing can be made there.
    """
    for _ in range(ATTEMPTS):
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target, kind)))
        # Until it is locked, the sweep of another run may take it for a leftover.
        with suppress(FileNotFoundError):
            made = Draft(folder, _opened(folder))
            if _locks(made.lock) is not False and _is_still(folder, made.lock):
                return _marked(made)
            made.release()
    raise OutputError(f"{target} can't be written: other processes remove what is made for it")


def _marked(made: Draft) -> Draft:
    try:
        (made.folder / MARKER).write_text(MARK, encoding="utf-8")
    except BaseException:
        discard(made.folder)
        made.release()
        raise
    return made


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _locks(descriptor: int) -> bool | None:
    """Lock a folder: False where another process holds it, None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_still(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def leftovers(target: Path, kind: Kind = "new") -> Iterator[Path]:
    """Yield the folders beside ``target`` that are named as its drafts and that no process holds.

    Each is locked until the next is asked for. Where there are no locks, nobody knows, and there are none.
    """
    pattern = re.compile(re.escape(_prefix(target, kind)) + "[a-z0-9_]{8}")
    for name in sorted(filter(pattern.fullmatch, names_in(target.parent))):
        folder = target.parent / name
        with suppress(OSError):
            descriptor = _opened(folder)
            try:
                if _locks(descriptor):
                    yield folder
            finally:
                os.close(descriptor)


def names_in(folder: Path) -> set[str]:
    """Names of what is in a folder; none where that can't be told."""
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()


def sweep(target: Path) -> None:
    """Remove what killed runs left beside ``target``: drafts with a mark, and those that hold nothing."""
    for folder in leftovers(target):
        if is_marked(folder) or not names_in(folder):
            discard(folder)


def is_marked(folder: Path) -> bool:
    """Tell whether a folder carries the mark, or the beginning of it."""
    marker = folder / MARKER
    try:
        return (
            marker.is_file()
            and not marker.is_symlink()
            and MARK.startswith(marker.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError):
        return False


def discard(folder: Path) -> None:
    """Remove a draft, its mark last, so that a kill on the way leaves it marked."""
    with suppress(OSError):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MARKER):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        folder.rmdir()


def _prefix(target: Path, kind: Kind) -> str:
    return PREFIXES[kind].format(target.name[:LONGEST_NAME])
