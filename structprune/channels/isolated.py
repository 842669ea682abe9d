"""Work on a stranger's network, in a process of its own with a limit on time and on memory.

A forward pass is anybody's code: it may never end, take all memory or bring the interpreter down, and none of
these can be caught where it runs.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch

from structprune.errors import InputError, StructpruneError

T = TypeVar("T")


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

    Args:
        work: a function without side effects that anybody needs, on one thread.
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
    if not _forks():
        return work()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_do, args=(work, limits, doing, ours, theirs), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of locks that other threads hold; the child is one thread and takes none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    theirs.close()
    try:
        if not ours.poll(limits.seconds):
            raise InputError(f"{doing} is not done after {limits.seconds:g} s")
        done, outcome = ours.recv()
    except EOFError:
        child.join()
        raise InputError(f"{doing} ended its process ({_ending(child.exitcode)})") from None
    finally:
        child.kill()
        child.join()
        child.close()
        ours.close()
    if isinstance(outcome, StructpruneError) and not done:
        raise outcome
    found: T = outcome
    return found


def _forks() -> bool:
    """Tell whether a copy of this process can go on by itself: CUDA's contexts and daemons can't."""
    process = multiprocessing.current_process()
    has_cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return sys.platform == "linux" and not has_cuda and not process.daemon


def _do(
    work: Callable[[], Any], limits: Limits, doing: str, theirs_alone: Connection, out: Connection
) -> None:
    theirs_alone.close()
    # The parent hears of Ctrl-C and ends this process; its handlers are not for here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # The threads of the parent's pools are not here.
    torch.set_num_threads(1)
    _limit_memory(limits.bytes)
    try:
        out.send((True, work()))
    except MemoryError:
        out.send((False, InputError(f"{doing} takes more than {limits.bytes / 1e9:.1f} GB of memory")))
    except StructpruneError as error:
        out.send((False, error))
    except BaseException as error:
        out.send((False, InputError(f"{doing} failed with {type(error).__name__}: {error}")))


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
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)
