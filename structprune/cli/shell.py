"""What every verb shares: consoles, errors and their exit codes."""

from __future__ import annotations

import functools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from structprune.errors import OutputError, StructpruneError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from structprune.render import Table

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130
TERMINATED = 143
# A pipe has no width of its own; tables that are cut off there are of no use to anybody.
WIDTH_OF_A_PIPE = 160


def console(stderr: bool = False) -> Console:
    """Return a console that doesn't fold tables where nobody looks at a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else WIDTH_OF_A_PIPE, highlight=False)


def guarded(verb: Callable[P, R]) -> Callable[P, R]:
    """Turn errors into one sentence and an exit code; ``debug=True`` lets the traceback through."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        signal.signal(signal.SIGTERM, _terminate)
        try:
            return verb(*args, **kwargs)
        except KeyboardInterrupt:
            _fail("interrupted; nothing was written", INTERRUPTED)
        except Exception as error:
            if kwargs.get("debug"):
                raise
            _fail(*_told(error))

    return run


def _terminate(*_: object) -> NoReturn:
    # As an exception, so that folders that are half written are cleaned up on the way out.
    sys.exit(TERMINATED)


def _told(error: Exception) -> tuple[str, int]:
    if isinstance(error, StructpruneError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "out of memory; score in smaller passes (--chunk 1) or with fewer samples (--samples)", 1
    if isinstance(error, OSError):
        return f"{error.strerror or error}; nothing was written", OutputError.exit_code
    kind = type(error).__name__
    return f"unexpected {kind}: {_first_line(error)}; run again with --debug for the traceback", 1


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _fail(sentence: str, code: int) -> NoReturn:
    console(stderr=True).print(f"[bold red]error:[/] {_escape(sentence)}", soft_wrap=True)
    sys.exit(code)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextmanager
def speaking(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Give a function that says on stderr what happens next, as a spinner where that is a terminal."""
    out = console(stderr=True)
    if quiet:
        yield lambda _: None
    elif out.is_terminal:
        with out.status("starting") as status:
            yield lambda words: status.update(_escape(words))
    else:
        yield lambda words: out.print(f"- {_escape(words)}")


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_table(table: Table, transposed: bool = False) -> None:
    """Draw a table on stdout."""
    console().print(drawn(table, transposed))


def drawn(table: Table, transposed: bool = False) -> RichTable:
    """Draw a table; numbers are right-aligned."""
    from rich.table import Table as RichTable

    head, rows = (table.head, table.rows)
    if transposed:
        head, *rows = zip(table.head, *table.rows, strict=True)  # type: ignore[assignment]
    drawing = RichTable(title=table.title, title_justify="left")
    for i, name in enumerate(head):
        drawing.add_column(_escape(name), justify="left" if i == 0 or name == "how" else "right")
    for row in rows:
        drawing.add_row(*map(_escape, row))
    return drawing
