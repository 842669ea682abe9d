"""Single files, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structprune.errors import OutputError
from structprune.models.results.drafts import MARKER, draft, sweep
from structprune.models.results.sealing import enter


def check_file(path: Path, force: bool) -> None:
    """Refuse a file that could not be written in the end, before any work is done.

    Raises:
        OutputError: it is there already, or its place can't be written.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is no regular file and can't be replaced; choose another name")
    if os.path.lexists(path) and not force:
        raise OutputError(f"{path} exists; choose another name or replace it with --force")
    if not path.parent.is_dir():
        raise OutputError(f"{path} can't be written: there is no folder {path.parent}")
    with staged_file(path):
        pass


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a draft that becomes ``path`` if the block succeeds and vanishes if it does not.

    What a killed run left beside it is removed first. Where it lies in a result folder, the plan is told.

    Raises:
        OutputError: the place can't be written, the disk is full, or a second file that belongs to it would
            replace another's; an older file stays as it is.
        OSError: another file, that the block reads, say.
    """
    stage: Path | None = None
    try:
        sweep(path)
        with draft(path) as made:
            stage = made.folder
            yield stage / path.name
            _name(stage, path)
    except OSError as error:
        named = error.filename if isinstance(error.filename, str | bytes) else None
        ours = named is None or stage is None or Path(os.fsdecode(named)).is_relative_to(stage)
        # A full disk names no file.
        if error.errno is None or not ours:
            raise
        # What /proc answers.
        missing = isinstance(error, FileNotFoundError)
        reason = f"nothing can be made in {path.parent}" if missing else error.strerror or error
        raise OutputError(f"{path} can't be written: {reason}") from error


def _name(stage: Path, path: Path) -> None:
    """Give files of a draft their names."""
    made = sorted(file.name for file in stage.iterdir() if file.name != MARKER)
    for name in made:
        place = path.with_name(name)
        if name != path.name and os.path.lexists(place) and not path.exists():
            raise OutputError(f"{place} exists and belongs to no {path.name}; choose another name")
    # In reverse, model.onnx.data is there before the model.onnx that needs it.
    for name in reversed(made):
        (stage / name).replace(path.with_name(name))
    enter(path.parent, made)
