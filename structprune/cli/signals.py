"""What ends a run from outside, and only once: Ctrl-C, and the signals by which a system asks for an end."""

from __future__ import annotations

import signal
import sys

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupted(KeyboardInterrupt):
    """Somebody pressed Ctrl-C, as against a ``KeyboardInterrupt`` that a network's code raises."""


class Stopped(SystemExit):
    """The system asked for an end; ``code`` is 128 + the signal's number."""


_last: Interrupted | Stopped | None = None


def listen() -> None:
    """Let a signal end the process as an error does, so that what is half written is cleaned up.

    While that goes on, further signals are ignored. A signal that was lost, because somebody's code catches
    everything, lets the next one through.
    """
    for number in _numbers():
        # Under nohup a hang-up is to be ignored, and in the background Ctrl-C.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def ignore() -> None:
    """Ignore signals from now on: the process is about to end, and Python can't be interrupted well then."""
    for number in _numbers():
        signal.signal(number, signal.SIG_IGN)


def behind(error: BaseException | None) -> Interrupted | Stopped | None:
    """Return the signal that an error comes from, if any, also where somebody made another error of it."""
    while error is not None and error is not _last:
        error = error.__context__
    return error if isinstance(error, Interrupted | Stopped) else None


def _end(number: int, _: object) -> None:
    global _last
    if behind(sys.exception()) is None:
        _last = Interrupted() if number == signal.SIGINT else Stopped(128 + number)
        raise _last


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
