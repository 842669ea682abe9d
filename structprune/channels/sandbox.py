"""Work on a stranger's network, in a process of its own with a limit on time and on memory.

A forward pass is anybody's code: it may never end, take all memory or bring the interpreter down, and none of
these can be caught where it runs.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, TypeVar

import torch

from structprune.errors import InputError, StructpruneError

T = TypeVar("T")

STALLED = 10.0
"""Seconds without any processor time after which a process is taken for stuck, and copied once more."""


@dataclass(frozen=True)
class Limits:
    """What work may take.

    Attributes:
        seconds: until it is ended.
        bytes: of memory beyond what is taken already.
    """

    seconds: float
    bytes: int


def isolated(work: Callable[[], T], limits: Limits, doing: str) -> T:
    """Do work in a process of its own, where there can be one: on Linux, away from CUDA.

    The process is a copy of this one with one thread. Work that waits for another thread of this process
    waits in vain there; ``STRUCTPRUNE_ISOLATED=0`` in the environment has it done here.

    Args:
        work: a function without side effects that anybody needs.
        limits: what it may take. Where there is no process of its own they are not enforced.
        doing: what it does, for messages.

    Returns:
        What the work returns, pickled and unpickled.

    Raises:
        InputError: it takes more than the limits allow, or its process ends by itself.
        StructpruneError: whatever error of ours the work raises.

    Example:
        >>> isolated(lambda: 6 * 7, Limits(seconds=60, bytes=1 << 30), "multiplying")
        42
    """
    answer = _answer(work, limits, doing, may_stall=False) if _forks() else None
    if answer is None:
        return _here(work, limits, doing)
    error, outcome = answer
    if error is not None:
        raise error from RuntimeError(outcome)
    found: T = outcome
    return found


def _answer(work: Callable[[], Any], limits: Limits, doing: str, may_stall: bool) -> tuple[Any, Any] | None:
    """Return what the process says, an error or an outcome; None where there can be no process.

    Args:
        work: what it does.
        limits: what it may take.
        doing: what it does, for messages.
        may_stall: whether it may do nothing for as long as it wants. Copied while another thread held a lock
            it waits for that lock for ever; another copy, of another moment, most likely doesn't.
    """
    started = _started(work, limits, doing)
    if started is None:
        return None
    child, answers = started
    try:
        stalled = not may_stall and _stalls(child, answers, limits.seconds)
        if not stalled:
            if not answers.poll(limits.seconds if may_stall else 0):
                raise InputError(f"{doing} is not done after {limits.seconds:g} s{_beside_threads()}")
            found: tuple[Any, Any] = answers.recv()
            return found
    except (EOFError, OSError):
        child.join()
        raise InputError(f"{doing} ended its process ({_ending(child.exitcode)})") from None
    finally:
        answers.close()
        _end(child)
    return _answer(work, limits, doing, may_stall=True)


def _stalls(child: ForkProcess, answers: Connection, seconds: float) -> bool:
    """Wait for an answer or the end of the time; tell whether the process stopped computing before either."""
    start = since = time.monotonic()
    used = -1
    while (left := start + seconds - time.monotonic()) > 0:
        if answers.poll(min(left, 1.0)):
            return False
        now = _ticks(child)
        if now != used:
            used, since = now, time.monotonic()
        elif time.monotonic() - since >= STALLED:
            return True
    return False


def _ticks(child: ForkProcess) -> int:
    """Return how much processor time a process has had, in the system's ticks."""
    with suppress(OSError):
        fields = Path(f"/proc/{child.pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


def _here(work: Callable[[], T], limits: Limits, doing: str) -> T:
    try:
        return work()
    except MemoryError as error:
        raise InputError(f"{doing} takes more memory than there is") from error


def _forks() -> bool:
    """Tell whether a copy of this process can go on by itself: CUDA's contexts and daemons can't."""
    wanted = os.environ.get("STRUCTPRUNE_ISOLATED") != "0"
    has_cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    is_daemon = multiprocessing.current_process().daemon
    return wanted and sys.platform == "linux" and not has_cuda and not is_daemon


def _started(work: Callable[[], Any], limits: Limits, doing: str) -> tuple[ForkProcess, Connection] | None:
    """Start the process; None where the system has none left."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_do, args=(work, limits, doing, ours, theirs))
    try:
        with _STARTING, _uncollected(), _unsignalled(), warnings.catch_warnings():
            # Python 3.12 warns of locks that other threads hold; our own part takes none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            child.start()
    except OSError:
        ours.close()
        return None
    finally:
        theirs.close()
    return child, ours


@contextmanager
def _uncollected() -> Iterator[None]:
    """Hold the garbage collector back."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# What ends a process from outside, Ctrl-C included.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else (signal.SIGINT,)


@contextmanager
def _unsignalled() -> Iterator[None]:
    """Hold signals back while a process is copied: the copy is to know first what they mean to it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_STARTING = threading.Lock()
"""Warning filters are the whole process's."""


def _end(child: ForkProcess) -> None:
    """End a process and all that it started; where it is gone already, so much the better."""
    if child.pid:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()
    with suppress(ValueError):  # somebody else waited for it
        child.close()


def _beside_threads() -> str:
    return (
        ", and it may wait for another thread of this process: STRUCTPRUNE_ISOLATED=0 has it done here"
        if threading.active_count() > 1
        else ""
    )


def _do(
    work: Callable[[], Any], limits: Limits, doing: str, end_of_parent: Connection, out: Connection
) -> None:
    try:
        _keep_garbage()
        end_of_parent.close()
        _settle(limits)
        out.send((None, work()))
    except MemoryError:
        said = f"{doing} takes more than {limits.bytes / 1e9:.1f} GB of memory"
        out.send((InputError(said), traceback.format_exc()))
    except StructpruneError as error:
        _send_error(out, error)
    except BaseException as error:
        _send_error(out, InputError(f"{doing} failed with {type(error).__name__}: {_words(error)}"))


def _send_error(out: Connection, error: StructpruneError) -> None:
    """Send an error with the traceback of the one being handled; one that can't be sent, by its words."""
    try:
        out.send((error, _traceback()))
    except Exception:
        out.send((InputError(_words(error)), _traceback()))


def _words(error: BaseException) -> str:
    """Return what an error says, also one of anybody's that fails in saying it."""
    try:
        return str(error)
    except Exception:
        return "no message"


def _traceback() -> str:
    try:
        return traceback.format_exc()
    except Exception:
        return "no traceback"


def _keep_garbage() -> None:
    """Never collect what the parent left: it is the parent's to end.

    The destructor of a session of ONNX Runtime waits for its threads, which are not here, or crashes, and
    that of a temporary folder removes it.
    """
    gc.freeze()
    gc.enable()


def _settle(limits: Limits) -> None:
    """Make a copied process one of its own."""
    os.setpgid(0, 0)
    # The parent hears of Ctrl-C and ends this process; its handlers are not for here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    # A parent that was killed ends nobody.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.seconds + 5)
    # The threads of the parent's pools are not here.
    torch.set_num_threads(1)
    _limit_memory(limits.bytes)


def _limit_memory(more: int) -> None:
    """Let this process have that many bytes beyond what it has."""
    import resource  # there is none on Windows

    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (taken,) = (int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    asked = taken + more
    allowed = asked if most == resource.RLIM_INFINITY else min(asked, most)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, most))


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def exhausted(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out."""
    said = str(error)
    return isinstance(error, MemoryError) or "can't allocate memory" in said or "not enough memory" in said
