"""Signals in the middle of the work, and readers that go away."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from structprune import cli
from structprune.__main__ import main
from structprune.cli import signals
from tests.cli.command import contents, environment

# Draws for hours.
LONG = ("compress", "structprune:mlp", "--nodes", "0.3", "--draws", "1000000")


@pytest.mark.parametrize(
    ("numbers", "code", "said"),
    [
        ([signal.SIGINT] * 9, 130, "error: interrupted; nothing was written\n"),
        ([signal.SIGTERM, signal.SIGINT], 143, ""),
        ([signal.SIGHUP], 129, ""),
    ],
    ids=lambda value: f"{len(value)} of {value[0].name}" if isinstance(value, list) else "",
)
def test_signals_while_it_scores(numbers: list[signal.Signals], code: int, said: str, here: Path) -> None:
    before = contents(here)
    command = [sys.executable, "-m", "structprune", *LONG]
    with subprocess.Popen(
        command,
        cwd=here,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite in the background may have been told to ignore it, and its children would be too.
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in numbers],
    ) as running:
        try:
            assert running.stderr is not None
            next(line for line in running.stderr if line == "- scoring\n")
            assert contents(here) != before  # the folder in which the result is made
            for number in numbers:
                running.send_signal(number)
                time.sleep(0.01)  # two that come at once are one
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, out, err) == (code, "", said)
    assert contents(here) == before


def test_a_reader_that_goes_away(here: Path) -> None:
    command = [sys.executable, "-m", "structprune", "methods"]
    with subprocess.Popen(
        command, cwd=here, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        err = running.stderr.read()
    assert running.returncode == 1
    assert err == b""


def test_ctrl_c_before_a_verb_runs_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    monkeypatch.setattr(signals, "listen", lambda: None)
    monkeypatch.setattr(signals, "ignore", lambda: None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "error: interrupted; nothing was written\n"
