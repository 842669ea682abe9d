"""Standard output, kept for results: what else is printed, by whomever, goes to standard error."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

INPUT, OUTPUT, ERRORS = 0, 1, 2


class UnprintedError(Exception):
    """Standard output takes no more.

    Attributes:
        reason: what the system says.
        gone: whether nobody reads, since the output is closed or its reader has left.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.reason = error.strerror or str(error)
        self.gone = error.errno in (errno.EPIPE, errno.EBADF)


_results: TextIO | None = None
_written = False


def written() -> None:
    """Note that the verb's result is in its place, so that what is printed now is no more than about it."""
    global _written
    _written = True


def is_written() -> bool:
    """Tell whether the verb's result is in its place."""
    return _written


def results() -> TextIO:
    """Return where results go."""
    return sys.stdout if _results is None else _results


@contextmanager
def printing() -> Iterator[TextIO]:
    """Give the stream of results for something to be printed at once.

    Raises:
        UnprintedError: it takes no more.
    """
    try:
        yield results()
        results().flush()
    except OSError as error:
        raise UnprintedError(error) from error


@contextmanager
def kept_for_results() -> Iterator[None]:
    """Keep standard output for ``results()``, and send to standard error whatever else is printed there.

    Where standard output is a descriptor, that goes for everything in this process and its children; where
    it is an object of Python alone, as under a test, for what Python prints.
    """
    global _results, _written
    _written = False
    output = sys.stdout
    stream = _apart(output) if _is_descriptor(output) else output
    _results, sys.stdout = stream, sys.stderr
    try:
        yield
    finally:
        _results, sys.stdout = None, output
        if stream is not output:
            with suppress(OSError, ValueError):
                _flush()
            os.dup2(stream.fileno(), OUTPUT)
            with suppress(OSError):
                stream.close()


def _apart(output: TextIO) -> TextIO:
    """Return standard output under another descriptor; its own one becomes standard error."""
    output.flush()
    descriptor = os.dup(OUTPUT)
    os.dup2(ERRORS, OUTPUT)
    return open(  # noqa: PTH123  closed when the verb has ended
        descriptor, "w", encoding=output.encoding, errors=output.errors, buffering=-1
    )


def _is_descriptor(stream: TextIO) -> bool:
    try:
        return stream.fileno() == OUTPUT
    except (OSError, ValueError, AttributeError):
        return False


def fill_in() -> None:
    """Fill the places of standard streams that are closed, before a file of ours takes one of them.

    What is closed can't be written: a result on standard output says so, and errors go nowhere.
    """
    for descriptor in (INPUT, OUTPUT, ERRORS):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free, and that is this one. Only errors may be written to nowhere.
            os.open(os.devnull, os.O_WRONLY if descriptor == ERRORS else os.O_RDONLY)
            os.set_inheritable(descriptor, True)
    for name, descriptor in (("stdout", OUTPUT), ("stderr", ERRORS)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def let_go() -> None:
    """Print what is left on standard output, and send what comes after it to standard error."""
    place = ERRORS
    try:
        _flush()
        sys.stdout.flush()
    except (OSError, ValueError):  # what nobody could be given is not for standard error either
        place = os.open(os.devnull, os.O_WRONLY)
    if _is_descriptor(sys.stdout):
        with suppress(OSError):
            os.dup2(place, OUTPUT)


def _flush() -> None:
    """Write out what C and Python hold back for standard output, so that it goes where it was meant to."""
    from exporters.runtime.quiet import flush

    flush()
