"""Calls in a fresh process: one that has imported this package and holds nothing of its caller's.

Importing torch takes seconds. So one process does it once, and every call runs in a fork of that process;
where forks are not safe, in a process that ends with the call.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from structprune.errors import StructpruneError

FORKS = sys.platform == "linux"
"""Elsewhere the numerical libraries don't survive a fork."""

IDLE_SECONDS = 60.0
"""How long the process waits for another call: it holds the memory of an imported torch."""


def call_fresh(function: str, arguments: Sequence[str], threads: int, from_here: bool) -> str | None:
    """Call a function of this package in a fresh process, and wait for its end.

    Args:
        function: ``package.module:name``, most quickly one of this package; what it returns is dropped.
        arguments: its positional arguments.
        threads: for torch to compute with.
        from_here: whether modules of the current folder may be imported, as a network of the user's own
            needs.

    Returns:
        The message of what went wrong, or None.
    """
    path = [entry for entry in sys.path if entry]
    call = {
        "function": function,
        "arguments": list(arguments),
        "threads": threads,
        "path": ["", *path] if from_here else path,
        "folder": _folder(),
        "environment": dict(os.environ),
    }
    with _LOCK:
        server = _server()
        error = server.reply(call)
        if error is _GONE and server.calls > 1:  # it had waited long enough, just now
            server = _server()
            error = server.reply(call)
        return f"its process ended{server.last_words}" if error is _GONE else error


_GONE = "gone"
"""Stands for the reply of a process that ended without any; compared by identity."""


def _folder() -> str | None:
    """The current folder, or None where it is gone."""
    with suppress(FileNotFoundError):
        return str(Path.cwd())
    return None


class _Server:
    """The process that has imported torch, as its parent sees it."""

    def __init__(self) -> None:
        self.parent = os.getpid()
        self.calls = 0
        self.last_words = ""
        # This very package first, also where its caller has it from the current folder.
        path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)])
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is the parent's to hear of
        )

    def serves(self) -> bool:
        # A fork of the parent has these pipes too, and must not read the parent's replies.
        return self.parent == os.getpid() and self.process.poll() is None

    def reply(self, call: Mapping[str, Any]) -> str | None:
        """The message of what went wrong, None, or ``_GONE``."""
        self.calls += 1
        try:
            line = self._line_for(json.dumps(call).encode() + b"\n")
        except BaseException:  # its reply would be taken for that of the next call
            self.end()
            raise
        if not FORKS or not line:
            self.end()
        error: str | None = json.loads(line)["error"] if line else _GONE
        return error

    def _line_for(self, call: bytes) -> bytes:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(call)
            self.process.stdin.flush()
            return self.process.stdout.readline()
        return b""

    def end(self) -> None:
        """End the process and what it is at; in a fork of the parent it is not ours to end."""
        if self.parent != os.getpid() or self.errors.closed:
            return
        atexit.unregister(self.end)
        if self.process.poll() is None:  # else its number may be somebody else's by now
            with suppress(ProcessLookupError, PermissionError):
                if FORKS:
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.kill()
        with suppress(OSError):
            self.process.communicate()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        self.last_words = f": {lines[-1]}" if lines else ""
        self.errors.close()


_LOCK = threading.Lock()
_kept: _Server | None = None


def _server() -> _Server:
    global _kept
    if _kept is None or not _kept.serves():
        if _kept is not None:
            _kept.end()
        _kept = _Server()
        atexit.register(_kept.end)
    return _kept


def _serve() -> None:
    """Answer a call a line until the parent closes the pipe or is gone, or has not called for a while."""
    calls, replies = _pipes()
    while line := _next_line(calls):
        call = json.loads(line)
        module = call["function"].partition(":")[0]
        if module.startswith(f"{__package__}."):  # imported here, so that every fork has it already
            importlib.import_module(module)
        error = _in_fork(call) if FORKS else _run(call)
        replies.write(json.dumps({"error": error}) + "\n")
        replies.flush()
        if not FORKS:
            return


def _next_line(calls: IO[str]) -> str:
    if FORKS and not select.select([calls], [], [], IDLE_SECONDS)[0]:
        return ""
    return calls.readline()


def _pipes() -> tuple[IO[str], IO[str]]:
    """The pipes to the parent, out of the way of anybody's code that reads stdin or prints."""
    calls, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return calls, replies


def _in_fork(call: Mapping[str, Any]) -> str | None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, json.dumps(_run(call)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if not said:
        return f"its process ended ({f'signal {-code}' if code < 0 else f'exit code {code}'})"
    error: str | None = json.loads(said)
    return error


def _run(call: Mapping[str, Any]) -> str | None:
    """Do what is called for as a process of its own would: same folder, modules and environment."""
    import torch

    if call["folder"] is not None:
        os.chdir(call["folder"])
    os.environ.clear()
    os.environ.update(call["environment"])
    sys.path[:] = call["path"]
    torch.set_num_threads(call["threads"])
    module, _, name = call["function"].partition(":")
    try:
        getattr(importlib.import_module(module), name)(*call["arguments"])
    except BaseException as error:  # SystemExit too, of anybody's code
        return _message(error)
    return None


def _message(error: BaseException) -> str:
    """What an error says, in one line; one of anybody's may fail in saying it."""
    with suppress(Exception):
        # An error of ours as it is, since the interface of the caller spells the arguments that it names.
        said = error.message if isinstance(error, StructpruneError) else str(error)
        return (said.strip().splitlines() or [""])[-1] or type(error).__name__
    return type(error).__name__


if __name__ == "__main__":
    _serve()
