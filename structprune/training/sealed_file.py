"""The checkpoint's file: what torch saves, with the checksum of its bytes behind it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from structprune.errors import InputError, OutputError
from structprune.models.results.drafts import draft
from structprune.training.document import Document, check_proofs

SCHEMA = 2

SEAL = b"\nstructprune training checkpoint, sha256 %s\n"
SEALED = re.compile(re.escape(SEAL).replace(b"%s", b"([0-9a-f]{64})"))
SEAL_SIZE = len(SEAL % (b"0" * 64))
PIECE = 1 << 20

ADVICE = "start anew, or choose another output"


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write a checkpoint, so that a kill at any moment leaves the old or the new file whole.

    Raises:
        OutputError: it can't be written, or a file of that name is none of ours.
    """
    check_replaceable(path)
    try:
        with draft(path) as made:
            written = made.folder / path.name
            with written.open("w+b") as file:
                torch.save(dict(document), file)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0, os.SEEK_END)
                file.write(SEAL % digest.encode())
                file.flush()
                os.fsync(file.fileno())
            written.replace(path)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"the checkpoint {path.name} can't be written: {error}") from error


def check_replaceable(path: Path) -> None:
    """Refuse a place that is taken by anything but a checkpoint of a training.

    Raises:
        OutputError: saying what is there.
    """
    if not os.path.lexists(path):
        return
    kind = stat.S_IFMT(path.lstat().st_mode)
    if kind != stat.S_IFREG:
        what = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder"}.get(kind, "no regular file")
        raise OutputError(f"{path} is {what}, and a checkpoint of the training is kept there; move it away")
    if not is_ours(path):
        raise OutputError(
            f"{path} is no checkpoint that structprune wrote and is left as it is; move it away, "
            "or choose another output"
        )


def is_ours(path: Path) -> bool:
    """Tell from its content whether a file is a checkpoint of a training, of an earlier version too."""
    if _seal(path) is not None:
        return True
    return {"schema", "fingerprint", "answers", "within"} <= _as_table(_loaded(path)).keys()


def remove(path: Path) -> None:
    """Remove a checkpoint; what is none of ours stays."""
    if path.is_file() and not path.is_symlink() and is_ours(path):
        path.unlink()


def read(path: Path) -> Document:
    """Read a checkpoint whose bytes are those that were written; nothing in it is executed.

    Raises:
        InputError: it is no checkpoint, damaged, or of another version.
        ProofFailedError: it has no checksum, and a proof that failed.
    """
    if not path.is_file():
        raise InputError(f"{path.name} is no checkpoint of a training: it is no regular file")
    seal = _seal(path)
    if seal is None:
        check_proofs(_as_table(_loaded(path)), path.name)
        what = " that has its checksum: altered, or of another version" if is_ours(path) else ""
        raise InputError(f"{path.name} is no checkpoint of a training{what}; {ADVICE}")
    if seal != _digest(path):
        raise InputError(
            f"{path.name} is damaged: its bytes are not those that its checksum was taken of; {ADVICE}"
        )
    document = _as_table(_loaded(path))
    if type(version := document.get("schema")) is not int or version != SCHEMA:
        raise InputError(f"{path.name} is no checkpoint of a training by this version; {ADVICE}")
    return document


def _seal(path: Path) -> str | None:
    """The checksum at the end of a file, or None where there is none."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - SEAL_SIZE))
        found = SEALED.fullmatch(file.read())
    return found[1].decode() if found else None


def _digest(path: Path) -> str:
    """SHA-256 of all that stands before the seal."""
    digest, left = hashlib.sha256(), path.stat().st_size - SEAL_SIZE
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(PIECE, left))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _as_table(value: object) -> Document:
    return value if isinstance(value, dict) else {}


def _loaded(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # of bytes that may be anything
        return None
