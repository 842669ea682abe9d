"""Folders written whole or not at all.

A result is written into a fresh folder beside its target, flushed to the disk, and renamed in. An older one
is renamed aside first and removed last, so that a kill at any moment leaves one whole folder.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from structprune.errors import OutputError
from structprune.sources.plan_file import PLAN

OUR_FILES = frozenset(
    {
        "model.safetensors",
        PLAN,
        "model.onnx",
        "model.onnx.data",
        "model.int8.onnx",
        "report.json",
        "report.md",
        "report.html",
        "pareto.json",
        "pareto.svg",
    }
)
"""All that structprune writes into a result folder, and all that ``--force`` may remove."""

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
        >>> with tempfile.TemporaryDirectory() as here:
        ...     with staged_folder(Path(here) / "result") as folder:
        ...         _ = (folder / "report.md").write_text("done")
        ...     print(os.listdir(here))
        ['result']
    """
    check_target(target, force)
    made_parents: list[Path] = []
    stage: Path | None = None
    try:
        with translated(target):
            made_parents = [parent for parent in target.parents if not parent.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            stage = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:64]}.new-"))
            _open_to_readers(stage)
            yield stage
            _open_to_readers(stage)
            _flush(stage)
            _swap_in(stage, target, force)
    except BaseException:  # Ctrl-C too leaves nothing behind
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for parent in made_parents:
            with suppress(OSError):
                parent.rmdir()
        raise


def check_target(target: Path, force: bool = False) -> None:
    """Refuse a target that could not be written in the end, before any work is done.

    Args:
        target: where the result is to be.
        force: whether an earlier result of ours there may be replaced.

    Raises:
        OutputError: it exists and may not be replaced, or its place can't be written.
    """
    with translated(target):
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
        raise OutputError(f"{target} exists; --force replaces an earlier result, or choose another folder")
    if _is_home_root_or_around_here(target):
        raise OutputError(f"{target} is the current, the home or the root folder and is never replaced")
    strangers = sorted(entry.name for entry in os.scandir(target) if not _is_ours(entry))
    if strangers:
        raise OutputError(
            f"{target} holds {strangers[0]!r}, which structprune did not write, and is left as it is;"
            " choose another folder"
        )
    if not (target / PLAN).is_file():
        raise OutputError(
            f"{target} holds no {PLAN}, so it is no result of structprune; choose another folder"
        )


def _is_ours(entry: os.DirEntry[str]) -> bool:
    return entry.name in OUR_FILES and entry.is_file(follow_symlinks=False)


def _is_home_root_or_around_here(target: Path) -> bool:
    real = target.resolve()
    return Path.cwd().is_relative_to(real) or Path.home().is_relative_to(real)


def _check_writable(target: Path) -> None:
    """Try it: neither modes nor mounts tell the whole truth, and root is allowed everything but /proc."""
    parent = target.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    try:
        os.rmdir(tempfile.mkdtemp(dir=parent, prefix=".structprune-"))  # noqa: PTH106
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
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _swap_in(stage: Path, target: Path, force: bool) -> None:
    if not os.path.lexists(target):
        stage.rename(target)
        return
    _check_replaceable(target, force)  # again: the work took a while
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name[:64]}.old-"))
    target.rename(aside)  # an empty folder is replaced in one step
    try:
        stage.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


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
