"""Keeping libraries that chatter off the terminal while they work."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings, log lines, Python's standard streams and what C++ prints; they come back.

    Errors pass. What runs at the same time in other threads is held back as well, so keep the body short.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            _silent_descriptor(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


OUTPUT = 1
"""The file descriptor of standard output."""


@contextlib.contextmanager
def _silent_descriptor() -> Iterator[None]:
    """Silence standard output below Python too: PyTorch's tracer prints its graph there before it raises."""
    try:
        kept = os.dup(OUTPUT)
    except OSError:  # closed: there is nothing to keep silent
        yield
        return
    flush()
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), OUTPUT)
        yield
    finally:
        flush()
        os.dup2(kept, OUTPUT)
        os.close(kept)


def flush() -> None:
    """Write out what Python and C hold back, so that it goes where it was meant to."""
    if sys.__stdout__ is not None and not sys.__stdout__.closed:
        sys.__stdout__.flush()
    with contextlib.suppress(OSError, TypeError, AttributeError):  # a system whose C library has another name
        ctypes.CDLL(None).fflush(None)
