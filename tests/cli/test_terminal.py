"""What it looks like: terminals narrow and plain, and names that look like markup."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from structprune.cli import console as shell
from structprune.report import Table
from tests.cli.command import Command, environment, in_own_process
from tests.cli.networks import QUICK, save_mlp


def _in_terminal(here: Path, *arguments: str, **extra: str) -> tuple[int, str]:
    """Run with both streams on a terminal; returns the exit code and all that it shows."""
    leader, follower = pty.openpty()
    try:
        running = subprocess.Popen(
            [sys.executable, "-m", "structprune", *arguments],
            cwd=here,
            env={**environment(), "TERM": "xterm", **extra},
            stdin=subprocess.DEVNULL,
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)
        shown = b"".join(_chunks(leader))
        return running.wait(timeout=60), shown.decode()
    finally:
        os.close(leader)


def _chunks(descriptor: int) -> list[bytes]:
    chunks: list[bytes] = []
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # the other side has closed
            return chunks
        if not chunk:
            return chunks
        chunks.append(chunk)


def _widest(text: str) -> int:
    return max(len(line) for line in text.splitlines() if line.startswith(("│", "┏", "└")))


def test_a_narrow_terminal(here: Path) -> None:
    save_mlp(here / "[red]net.pt")
    code, shown = _in_terminal(here, "inspect", "[red]net.pt", COLUMNS="60", NO_COLOR="1")
    assert code == 0
    assert "[red]net" in shown
    assert _widest(shown) <= 60


@pytest.mark.parametrize(("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_an_error_in_a_terminal(extra: dict[str, str], coloured: bool, here: Path) -> None:
    code, shown = _in_terminal(here, "compress", "resnet18", "--nodes", "2", **extra)
    assert code == 2
    assert ("\x1b[1;31merror:" in shown) == coloured
    assert "--nodes 2: expected a fraction" in shown


def test_a_narrow_pipe(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = cli("compress", "structprune:mlp", "--nodes", 0.5, *QUICK).done()
    assert _widest(shown.out) <= 60
    assert "\x1b" not in shown.out + shown.err


def test_a_pipe_has_room_for_tables(cli: Command) -> None:
    shown = cli("compress", "structprune:mlp", "--nodes", 0.5, *QUICK).done()
    assert 60 < _widest(shown.out) <= shell.WIDTH_OF_A_PIPE


@pytest.mark.parametrize(
    "name", ["[red]net", "[/]", "[link=x]y[/link]", ":smile:", "back\\[bold]slash", "ünï"]
)
def test_names_come_out_as_they_are(name: str, cli: Command, here: Path) -> None:
    file = name.replace("/", "|") + ".pt"
    save_mlp(here / file)
    shown = cli("inspect", file).done()
    assert f"- reading {file}" in shown.err.splitlines()
    assert f"{Path(file).stem}: 2 groups of coupled channels" in shown.out
    cli("inspect", "missing " + file).refused(1, "missing " + file)
    folder = Path(file).stem
    saved = cli("compress", file, "--nodes", 0.5, *QUICK).done()
    assert f"Written to {folder}-nodes0.5: " in saved.out
    assert (here / f"{folder}-nodes0.5" / "plan.json").is_file()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_characters(encoding: str, here: Path) -> None:
    options = ("structprune:mlp", "--score", "magnitude")
    finished = in_own_process(here, "score", *options, env={"PYTHONIOENCODING": encoding}).done()
    assert "mlp: magnitude" in finished.out


@pytest.mark.parametrize("cell", ["", "-3", "1.5e-05", "50.0 %", "9.48x (9.40-9.50)"])
def test_a_number_may_have_a_unit_or_an_interval(cell: str) -> None:
    assert shell._is_number(cell)


@pytest.mark.parametrize("cell", ["9.48x faster", "yes", "conv1", "1.31.1, proven by a run"])
def test_words_are_no_number(cell: str) -> None:
    assert not shell._is_number(cell)


def test_columns_of_numbers_are_right_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("[b]title", ("name", "count", "how"), (("a", "1", "x"), ("bc", "234", "long")))
    shell.print_table(table)
    shown = capsys.readouterr().out
    assert "[b]title" in shown
    assert "│ a    │     1 │ x    │" in shown
    assert "│ bc   │   234 │ long │" in shown
    shell.print_table(table, transposed=True)
    assert "│ count │ 1 │ 234  │" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "filled"), [("epoch 15 of 30, loss 0.1", 10), ("epoch 30 of 30", 20), ("step 0 of 7", 0)]
)
def test_what_says_how_far_it_is_gets_a_bar(words: str, filled: int) -> None:
    bar, text = shell._with_bar(words).plain.split(" ", 1)
    assert (len(bar), text) == (shell.BAR, words)
    green = [span for span in shell._with_bar(words).spans if span.style == "green"]
    assert sum(span.end - span.start for span in green) == filled


def test_what_does_not_say_how_far_it_is_gets_none() -> None:
    assert shell._with_bar("cutting").plain == "cutting"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"chunk": None, "samples": 64},
            "; what takes less: smaller passes (--chunk 1), fewer samples (--samples)",
        ),
        ({"opset": 18}, ""),
    ],
    ids=["compress", "export"],
)
def test_what_takes_less_memory_is_an_option_of_the_verb(
    options: dict[str, object], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb(**_: object) -> None:
        raise MemoryError

    with pytest.raises(SystemExit):
        shell.guarded(verb)(**options)
    assert capsys.readouterr().err == f"error: out of memory{sentence}\n"
