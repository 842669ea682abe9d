"""The command line as a user runs it, in this process or in one of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Finished:
    """What a run left on its two streams, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    def done(self) -> Finished:
        """Hold that nothing went wrong."""
        assert self.code == 0, self.err
        return self

    def refused(self, code: int, *words: str) -> str:
        """Hold that one sentence, and no traceback, says what went wrong; the sentence comes back."""
        assert self.code == code, (self.code, self.err)
        assert self.out == ""
        *progress, sentence = self.err.splitlines()
        assert all(line.startswith("- ") for line in progress), self.err
        assert sentence.startswith("error: "), self.err
        missing = [word for word in words if word not in sentence]
        assert not missing, (missing, sentence)
        return sentence


Command = Callable[..., Finished]


def in_own_process(here: Path, *arguments: object, **options: Any) -> Finished:
    """Run ``structprune`` in a process of its own, one thread, in a folder."""
    extra = options.pop("env", {})
    done = subprocess.run(
        [sys.executable, "-m", "structprune", *map(str, arguments)],
        cwd=here,
        env={**environment(), **extra},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
        **options,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def environment() -> dict[str, str]:
    """One thread, so that tests don't fight for cores, and no width of a terminal."""
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return {**inherited, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


def contents(folder: Path) -> dict[str, str]:
    """Every path below a folder, hidden ones too, with what is in it."""
    return {str(path.relative_to(folder)): _fingerprint(path) for path in sorted(folder.rglob("*"))}


def _fingerprint(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
