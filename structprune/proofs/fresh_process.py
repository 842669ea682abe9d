"""Calls in a fresh process: one that has imported this package and holds nothing of its caller's.

Importing torch takes seconds. So one process does it once, and every call runs in a fork of that process;
where forks are not safe, in a process that ends with the call.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

FORKS = sys.platform == "linux"
"""Elsewhere the numerical libraries don't survive a fork."""

_DONE = "done"


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
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
    }
    with _LOCK:
        outcome = _server().reply(call)
    return None if outcome == _DONE else outcome


class _Server:
    """The process that has imported torch, as its parent sees it."""

    def __init__(self) -> None:
        self.parent = os.getpid()
        path = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is the parent's to hear of
        )

    def serves(self) -> bool:
        # A fork of the parent has these pipes too, and must not read the parent's replies.
        return self.parent == os.getpid() and self.process.poll() is None

    def reply(self, call: Mapping[str, Any]) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(call).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BaseException:  # its reply would be taken for that of the next call
            self.end()
            raise
        if not FORKS or not line:
            self.end()
        return str(json.loads(line)) if line else "its process ended"

    def end(self) -> None:
        """End the process and what it is at; in a fork of the parent it is not ours to end."""
        if self.parent != os.getpid():
            return
        with suppress(ProcessLookupError, PermissionError):
            if FORKS:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        with suppress(OSError):
            self.process.communicate()


_LOCK = threading.Lock()
_kept: _Server | None = None


def _server() -> _Server:
    global _kept
    if _kept is None or not _kept.serves():
        _kept = _Server()
        atexit.register(_kept.end)
    return _kept


def _serve() -> None:
    """Answer a call a line until the parent closes the pipe or is gone."""
    calls, replies = _pipes()
    for line in calls:
        call = json.loads(line)
        module = call["function"].partition(":")[0]
        if module.startswith(f"{__package__}."):  # imported here, so that every fork has it already
            importlib.import_module(module)
        print(json.dumps(_in_fork(call) if FORKS else _run(call)), file=replies, flush=True)
        if not FORKS:
            return


def _pipes() -> tuple[Any, Any]:
    """The pipes to the parent, out of the way of anybody's code that reads stdin or prints."""
    calls, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return calls, replies


def _in_fork(call: Mapping[str, Any]) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, _run(call).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return said or (
        f"its process ended (signal {-code})" if code < 0 else f"its process ended (exit code {code})"
    )


def _run(call: Mapping[str, Any]) -> str:
    """Do what is called for as a process of its own would: same folder, modules and environment."""
    import torch

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
    return _DONE


def _message(error: BaseException) -> str:
    """What an error says, in one line; one of anybody's may fail in saying it."""
    with suppress(Exception):
        return (str(error).strip().splitlines() or [""])[-1] or type(error).__name__
    return type(error).__name__


if __name__ == "__main__":
    _serve()
