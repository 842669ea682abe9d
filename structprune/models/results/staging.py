"""Folders written whole or not at all.

A result is written into a draft beside its target, sealed with the checksums of its files, flushed to the
disk, and put in place. An older one of ours changes places with it and is removed last. What a kill leaves at
any moment is whole under the target's name, after the next run to it at the latest.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from structprune.errors import OutputError, argument
from structprune.models.results.drafts import Draft, discard, draft, sweep
from structprune.models.results.sealing import foreign, seal
from structprune.models.results.swapping import put_in_place, repair

# What the operating system says when a folder can't be written, as against a mistake of ours.
REFUSALS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.ELOOP,
    }
)


@contextmanager
def staged_folder(target: Path, force: bool = False) -> Iterator[Path]:
    """Yield a fresh folder that becomes ``target`` if the block succeeds and vanishes if it does not.

    Args:
        target: where the result is to be.
        force: replace an earlier result of ours.

    Raises:
        OutputError: the target is taken or can't be written, or the disk is full; nothing is left behind.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as here:
        ...     with staged_folder(Path(here) / "result") as folder:
        ...         _ = (folder / "report.md").write_text("done")
        ...     print(os.listdir(here))
        ['result']
    """
    check_target(target, force)
    made_parents: list[Path] = []
    try:
        with translated(target):
            made_parents = [parent for parent in target.parents if not parent.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            with draft(target) as made:
                _open_to_readers(made.folder)
                yield made.folder
                seal(made.folder)
                _name(made, target, force)
    except BaseException:  # Ctrl-C too leaves nothing behind
        for parent in made_parents:
            with suppress(OSError):
                parent.rmdir()
        raise


def _name(made: Draft, target: Path, force: bool) -> None:
    """Give a whole draft its name."""
    _open_to_readers(made.folder)
    made.unmark()
    _flush(made.folder)
    try:
        if os.path.lexists(target):
            _check_replaceable(target, force)  # again: the work took a while
            put_in_place(made.folder, target)
        else:
            made.folder.rename(target)
    except BaseException:
        discard(made.folder)
        raise
    _fsync(target.parent)


def check_target(target: Path, force: bool = False) -> None:
    """Refuse a target that could not be written in the end, before any work is done.

    What a killed run left beside it is repaired or removed first.

    Args:
        target: where the result is to be.
        force: whether an earlier result of ours there may be replaced.

    Raises:
        OutputError: it exists and may not be replaced, or its place can't be written.
    """
    with translated(target):
        repair(target)
        if os.path.lexists(target):
            _check_replaceable(target, force)
        _check_writable(target)


def _check_replaceable(target: Path, force: bool) -> None:
    if target.is_symlink() or not target.is_dir():
        kind = "a link" if target.is_symlink() else "a file"
        raise OutputError(
            f"{target} is {kind}, and only a result folder can be replaced; choose another folder"
        )
    if not force:
        raise OutputError(
            f"{target} exists; {argument('force')} replaces an earlier result, or choose another folder"
        )
    if _is_home_root_or_around_here(target):
        raise OutputError(f"{target} is the current, the home or the root folder and is never replaced")
    if (what := foreign(target)) is not None:
        raise OutputError(f"{target} holds {what} and is left as it is; choose another folder")


def _is_home_root_or_around_here(target: Path) -> bool:
    real = target.resolve()
    return Path.cwd().is_relative_to(real) or Path.home().is_relative_to(real)


def _check_writable(target: Path) -> None:
    """Try it: neither modes nor mounts tell the whole truth, and root is allowed everything but /proc."""
    parent = target.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    sweep(parent / target.name)
    try:
        with draft(parent / target.name):
            pass
    except FileNotFoundError as error:  # what /proc answers
        raise OutputError(f"{target} can't be written: no folder can be made in {parent}") from error


def _open_to_readers(folder: Path) -> None:
    """Give a private folder and its files the modes that ``mkdir`` and ``open`` would have given them.

    Temporary folders and what safetensors writes are readable by their owner alone.
    """
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)


def _flush(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence about the target.

    Raises:
        OutputError: the place can't be written or is full.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise OutputError(f"{target} can't be written: {_reason(error.errno)}") from error
    except SafetensorError as error:
        # It wraps the system's error as text: "I/O error: No space left on device (os error 28)".
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OutputError(f"{target} can't be written: {_reason(int(number[1]))}") from error


def _reason(number: int) -> str:
    return os.strerror(number)[:1].lower() + os.strerror(number)[1:]
