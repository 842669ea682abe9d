"""What every verb shares: consoles, errors and their exit codes."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer

from structprune.errors import StructpruneError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from structprune.render import Table

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130
# A pipe has no width of its own; tables that are cut off there are of no use to anybody.
WIDTH_OF_A_PIPE = 160
BAR = 20

# What the parser raises for options that it can't read. Typer gives the class no public name.
MISUSE: type[Exception] = typer.BadParameter.__bases__[0]


def prepare() -> None:
    """Let a signal end the process as an error does, no character end it at all, and nothing phone home."""
    # ONNX Runtime reports to its makers from version 1.31 on, unless this is set before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Under nohup a hang-up is to be ignored.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")


def _stop(number: int, _: object) -> NoReturn:
    # As an exception, so that folders that are half written are cleaned up on the way out.
    sys.exit(128 + number)


def console(stderr: bool = False) -> Console:
    """Return a console that takes text literally and folds no tables where nobody looks at a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_PIPE
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def guarded(verb: Callable[P, R]) -> Callable[P, R]:
    """Turn errors into one sentence and an exit code; ``debug=True`` lets the traceback through."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except KeyboardInterrupt as stop:
            # What a verb has to say about what it left lies in a note.
            left = "; ".join(getattr(stop, "__notes__", [])) or "nothing was written"
            fail(f"interrupted; {left}", INTERRUPTED)
        except BrokenPipeError:
            # Whoever read has gone; what is still buffered would raise again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if kwargs.get("debug"):
                raise
            fail(*_told(error, kwargs))

    return run


def fail(sentence: str, code: int) -> NoReturn:
    """Say what went wrong, and end."""
    from rich.text import Text

    in_one_line = " ".join(sentence.split())
    console(stderr=True).print(Text.assemble(("error:", "bold red"), " ", in_one_line), soft_wrap=True)
    sys.exit(code)


def misused(error: Exception) -> str:
    """Return what the parser says about options that it can't read, as one sentence."""
    message: str = error.format_message().rstrip(".?")  # type: ignore[attr-defined]
    command = getattr(getattr(error, "ctx", None), "command_path", "structprune")
    return f"{message[:1].lower()}{message[1:]}; see {command} --help"


LESS_MEMORY = {
    "chunk": "smaller passes (--chunk 1)",
    "samples": "fewer samples (--samples)",
    "batch_size": "smaller batches (--batch-size)",
    "measure_batch": "smaller batches to time (--measure-batch 1)",
}
"""Options of a verb that take less memory."""


def _told(error: Exception, options: Mapping[str, object]) -> tuple[str, int]:
    if isinstance(error, StructpruneError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        less = [words for option, words in LESS_MEMORY.items() if option in options]
        return "; ".join(("out of memory", *([f"what takes less: {', '.join(less)}"] if less else []))), 1
    if isinstance(error, OSError) and error.strerror:
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return f"{error.strerror}{where}", 1
    kind = type(error).__name__
    return f"unexpected {kind}: {_first_line(error)}; run again with --debug for the traceback", 1


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


@contextmanager
def speaking(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Give a function that says on stderr what happens next, as a spinner where that is a terminal."""
    from rich.text import Text

    out = console(stderr=True)
    if quiet:
        yield lambda _: None
    elif out.is_terminal:
        with out.status(Text("starting")) as status:
            yield lambda words: status.update(_with_bar(words))
    else:
        yield _without_repeats(lambda words: out.print(f"- {words}", soft_wrap=True))


def _with_bar(words: str) -> Text:
    """Draw a bar in front of what says how far it is: ``epoch 3 of 30``."""
    from rich.text import Text

    found = re.search(r"(\d+) of (\d+)", words)
    if found is None or found[2] == "0":
        return Text(words)
    filled = min(BAR, BAR * int(found[1]) // int(found[2]))
    return Text.assemble(("\u2501" * filled, "green"), ("\u2501" * (BAR - filled), "dim"), " ", words)


def _without_repeats(say: Callable[[str], None]) -> Callable[[str], None]:
    said = ""

    def once(words: str) -> None:
        nonlocal said
        if words != said:
            say(words)
        said = words

    return once


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_line(text: str) -> None:
    """Print a sentence on stdout."""
    console().print(text, soft_wrap=True)


def print_table(table: Table, transposed: bool = False) -> None:
    """Draw a table on stdout."""
    console().print(drawn(table, transposed))


def drawn(table: Table, transposed: bool = False) -> RichTable:
    """Draw a table; columns of numbers are right-aligned."""
    from rich.table import Table as RichTable

    columns = [table.head, *table.rows] if transposed else list(zip(table.head, *table.rows, strict=True))
    drawing = RichTable(title=table.title, title_justify="left")
    for i, (name, *cells) in enumerate(columns):
        drawing.add_column(name, justify="right" if i and all(map(_is_number, cells)) else "left")
    for row in zip(*(cells for _, *cells in columns), strict=True):
        drawing.add_row(*row)
    return drawing


def _is_number(cell: str) -> bool:
    # Also with a unit or an interval behind it: "1.5e-05", "50.0 %", "9.48x (9.40-9.50)".
    return re.fullmatch(r"[-+\d.,ex%() ]*", cell) is not None
