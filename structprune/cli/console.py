"""What every verb shares: consoles, errors and their exit codes."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer

from structprune.cli import signals, streams
from structprune.cli.foreign import ended_from_within, exits_caught, first_line
from structprune.errors import InputError, StructpruneError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from structprune.report import Table

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
    signals.listen()
    streams.fill_in()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")


def console(stderr: bool = False) -> Console:
    """Return a console that takes text literally and folds no tables where nobody looks at a terminal."""
    from rich.console import Console

    class Lasting(Console):
        """Rich's own would end the process where nobody reads any more."""

        def on_broken_pipe(self) -> None:
            if stderr:  # what happens next interests nobody, and the work goes on
                self.quiet = True
            else:
                raise  # the error that is being handled

    stream = sys.stderr if stderr else streams.results()
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_PIPE
    return Lasting(file=stream, width=width, highlight=False, markup=False, emoji=False)


def guarded(verb: Callable[P, R]) -> Callable[P, R]:
    """Turn what ends a verb into one sentence and an exit code; ``debug=True`` lets tracebacks through."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with streams.kept_for_results(), exits_caught():
                _require_folder()
                return verb(*args, **kwargs)
        except BaseException as error:
            _end(error, kwargs)

    return run


def _require_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise InputError("the current folder is gone; change to one that is there") from error


def _end(error: BaseException, options: Mapping[str, object]) -> NoReturn:
    """End the process for an error, a signal, or somebody's code that ended it."""
    stop = signals.behind(error)
    if stop is not None:
        end_by(stop)
    if isinstance(error, streams.UnprintedError):
        _end_unprinted(error)
    if not isinstance(error, Exception):
        error = ended_from_within(error).with_traceback(error.__traceback__)
    if options.get("debug"):
        if isinstance(error, StructpruneError):
            error.args = (error.in_shell(),)
        raise error
    fail(*_told(error, options))


def end_by(stop: signals.Interrupted | signals.Stopped) -> NoReturn:
    """End the process as a signal asks: after Ctrl-C with a sentence, else in silence."""
    if isinstance(stop, signals.Stopped):
        sys.exit(stop.code)
    # What a verb has to say about what it left lies in a note.
    left = "; ".join(getattr(stop, "__notes__", [])) or "nothing was written"
    fail(f"interrupted; {left}", INTERRUPTED)


def _end_unprinted(error: streams.UnprintedError) -> NoReturn:
    """End the process where standard output takes no more: well if the result is in its place already."""
    if error.gone and streams.is_written():
        sys.exit(0)
    if isinstance(error.__cause__, BrokenPipeError):
        sys.exit(1)
    what = "the result is written, but what was found" if streams.is_written() else "the result"
    fail(f"{what} can't be printed: {'standard output is closed' if error.gone else error.reason}", 1)


def fail(sentence: str, code: int) -> NoReturn:
    """Say what went wrong, and end."""
    from rich.text import Text

    in_one_line = " ".join(sentence.split())
    with suppress(OSError):
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


def _told(error: BaseException, options: Mapping[str, object]) -> tuple[str, int]:
    if isinstance(error, StructpruneError):
        return error.in_shell(), error.exit_code
    if isinstance(error, MemoryError) or "out of memory" in first_line(error).lower():
        less = [words for option, words in LESS_MEMORY.items() if option in options]
        return "; ".join(("out of memory", *([f"what takes less: {', '.join(less)}"] if less else []))), 1
    if isinstance(error, OSError) and error.strerror:
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return f"{error.strerror}{where}", 1
    kind = type(error).__name__
    return f"unexpected {kind}: {first_line(error)}; run again with --debug for the traceback", 1


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

        def say(words: str) -> None:
            with suppress(OSError):
                out.print(f"- {words}", soft_wrap=True)

        yield _without_repeats(say)


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


written = streams.written


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    print_text(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Print text on stdout as it is."""
    with streams.printing() as output:
        output.write(text)


def print_line(text: str) -> None:
    """Print a sentence on stdout."""
    with streams.printing():
        console().print(text, soft_wrap=True)


def print_table(table: Table, transposed: bool = False) -> None:
    """Draw a table on stdout."""
    with streams.printing():
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
