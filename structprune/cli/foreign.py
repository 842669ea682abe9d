"""Code of others, a network's above all, that ends the program instead of raising an error."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from structprune.errors import InputError

OF_PYTHON = ("<frozen _sitebuiltins>", "_sitebuiltins.py", Path(__file__).name)
"""Where ``quit()`` and the exit that stands in for ``os._exit`` are raised."""


@contextmanager
def exits_caught() -> Iterator[None]:
    """Let ``os._exit`` in this process raise ``SystemExit``: nothing could be cleaned up or said after it.

    In a copy of this process, as ``multiprocessing`` makes them, it ends the copy as ever.
    """
    process, leave = os.getpid(), os._exit

    def raise_exit(status: int) -> NoReturn:
        if os.getpid() != process:
            leave(status)
        raise SystemExit(status)

    homes = [os, *(sys.modules[name] for name in ("posix", "nt") if name in sys.modules)]
    for module in homes:
        vars(module)["_exit"] = raise_exit
    try:
        yield
    finally:
        for module in homes:
            vars(module)["_exit"] = leave


def ended_from_within(error: BaseException) -> InputError:
    """Return the error that says who ended the program, and where, with the notes of those who cleaned up."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name not in OF_PYTHON
    ]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    said = "; ".join((first_line(error), *getattr(error, "__notes__", [])))
    return InputError(
        f"the run was ended by {type(error).__name__}{where} ({said}); code of a network or a plug-in must "
        "return or raise an error, and end nothing"
    )


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, also of one that can't say anything."""
    try:
        return (str(error).strip().splitlines() or ["no message"])[0]
    except Exception:
        return "no message"
