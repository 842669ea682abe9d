"""Single files, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from structprune.errors import OutputError


def check_file(path: Path, force: bool) -> None:
    """Refuse a file that could not be written in the end, before any work is done.

    Raises:
        OutputError: it is there already, or its place can't be written.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file")
    if path.exists() and not force:
        raise OutputError(f"{path} exists; choose another name or replace it with --force")
    if not path.parent.is_dir():
        raise OutputError(f"{path} can't be written: there is no folder {path.parent}")
    with staged_file(path):
        pass


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a draft that becomes ``path`` if the block succeeds and vanishes if it does not.

    Raises:
        OutputError: the place can't be written, or the disk is full; an older file stays as it is.
        OSError: another file, that the block reads, say.
    """
    prefix = f".{path.name}-"
    try:
        with TemporaryDirectory(prefix=prefix, dir=path.parent) as stage:
            yield Path(stage, path.name)
            # In reverse, model.onnx.data is there before the model.onnx that needs it.
            for made in sorted(Path(stage).iterdir(), reverse=True):
                made.replace(path.with_name(made.name))
    except OSError as error:
        named = error.filename if isinstance(error.filename, str | bytes) else None
        # A full disk names no file.
        if error.errno is None or (named is not None and prefix not in os.fsdecode(named)):
            raise
        # What /proc answers.
        missing = isinstance(error, FileNotFoundError)
        reason = f"nothing can be made in {path.parent}" if missing else error.strerror or error
        raise OutputError(f"{path} can't be written: {reason}") from error
