"""Calls in a process that holds nothing of its caller's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from structprune.errors import UsageError
from structprune.proofs.fresh_process import call_fresh
from tests.cli.command import environment

CALLEE = """
import os, pathlib, sys

def tell(file):
    import torch
    print("to nobody")
    said = [os.getcwd(), os.environ.get("TOLD"), torch.get_num_threads(), sys.stdin.read()]
    pathlib.Path(file).write_text(repr(said))

def pid(file):
    pathlib.Path(file).write_text(f"{os.getpid()} {os.getppid()}")

def fail(text):
    raise ValueError(text)

def refuse(name):
    from structprune.errors import UsageError, argument
    raise UsageError(f"leave {argument(name)} out")

def leave(code):
    os._exit(int(code))

def exit_(code):
    raise SystemExit(int(code))

def sleep(file):
    import time
    pathlib.Path(file).touch()
    time.sleep(60)
"""


@pytest.fixture
def callee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "called.py").write_text(CALLEE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def call(name: str, *arguments: object, from_here: bool = False) -> str | None:
    return call_fresh(f"called:{name}", [*map(str, arguments)], 1, from_here)


def test_it_runs_where_its_caller_is(callee: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (callee / "folder").mkdir()
    monkeypatch.chdir(callee / "folder")
    for word in ("once", "again"):
        monkeypatch.setenv("TOLD", word)
        assert call("tell", callee / "said") is None
        assert (callee / "said").read_text() == repr([str(callee / "folder"), word, 1, ""])


def test_every_call_has_a_process_of_its_own(callee: Path) -> None:
    ids = set[str]()
    for _ in range(3):
        assert call("pid", callee / "ids") is None
        ids.update((callee / "ids").read_text().split())
    assert str(os.getpid()) not in ids
    assert len(ids) == 4  # three, and the one that they are forks of


def test_modules_of_the_current_folder_are_there_only_for_the_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "called.py").write_text(CALLEE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert "called" in (call("pid", tmp_path / "ids") or "")
    assert call("pid", tmp_path / "ids", from_here=True) is None


@pytest.mark.parametrize(
    ("name", "argument", "words"),
    [
        ("fail", "first\nlast", "last"),
        ("fail", "done", "done"),
        ("fail", "\udcff", ""),
        ("leave", 0, "exit code 0"),
        ("leave", 3, "exit code 3"),
        ("exit_", 0, "0"),
        ("absent", 0, "absent"),
    ],
)
def test_what_goes_wrong_is_told_and_the_next_call_goes_well(
    name: str, argument: object, words: str, callee: Path
) -> None:
    message = call(name, argument)
    assert message is not None
    assert words in message
    assert "\n" not in message
    assert call("pid", callee / "ids") is None


def test_an_error_of_ours_is_spelled_by_its_caller(callee: Path) -> None:
    message = call("refuse", "trust_pickle")
    assert message is not None
    assert str(UsageError(message)) == "leave trust_pickle= out"
    assert UsageError(message).in_shell() == "leave --trust-pickle out"


def test_a_server_that_has_waited_long_enough_is_replaced(callee: Path) -> None:
    assert call("pid", callee / "ids") is None
    server = int((callee / "ids").read_text().split()[1])
    os.kill(server, signal.SIGTERM)
    assert call("pid", callee / "ids") is None
    assert int((callee / "ids").read_text().split()[1]) != server


def test_a_current_folder_that_is_gone(callee: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (callee / "gone").mkdir()
    monkeypatch.chdir(callee / "gone")
    (callee / "gone").rmdir()
    assert call("pid", callee / "ids") is None


def test_a_package_that_its_caller_has_from_the_current_folder(tmp_path: Path) -> None:
    code = (
        "from structprune.proofs.fresh_process import call_fresh\n"
        "print(call_fresh('builtins:abs', [], 1, True))"
    )
    root = Path(__file__).resolve().parents[1]
    told = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=told, capture_output=True, text=True, check=False
    )
    assert "argument" in done.stdout, done.stderr


def test_a_fork_of_the_caller_has_a_server_of_its_own(callee: Path) -> None:
    assert call("pid", callee / "ours") is None
    child = os.fork()
    if child == 0:
        wrong = call("pid", callee / "theirs")
        from structprune.proofs import fresh_process

        assert fresh_process._kept is not None
        fresh_process._kept.end()
        os._exit(wrong is not None)
    assert os.waitpid(child, 0)[1] == 0
    servers = {(callee / name).read_text().split()[1] for name in ("ours", "theirs")}
    assert len(servers) == 2
    assert call("pid", callee / "ours") is None


def test_an_interrupt_ends_the_call(callee: Path) -> None:
    # A suite in the background may have been told to ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        while not (callee / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call("sleep", callee / "begun")
    finally:
        signal.signal(signal.SIGINT, before)
    assert call("pid", callee / "ids") is None


def test_nothing_outlives_a_caller_that_is_killed(callee: Path) -> None:
    code = (
        "import os, signal\nfrom structprune.proofs.fresh_process import call_fresh\n"
        f"call_fresh('called:pid', [{str(callee / 'ids')!r}], 1, False)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    told = {**environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=told, check=False)
    assert done.returncode == -signal.SIGKILL
    server = int((callee / "ids").read_text().split()[1])
    deadline = time.monotonic() + 20
    while psutil.pid_exists(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(server)
