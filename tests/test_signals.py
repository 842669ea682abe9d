"""Signals: the first one ends a run, those during its clean-up are ignored, and none is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from structprune.cli import signals
from structprune.cli.signals import Interrupted, Stopped, behind


@pytest.fixture(autouse=True)
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    handlers = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setattr(signals, "_last", None)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    signals.listen()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, Interrupted), (signal.SIGTERM, Stopped), (signal.SIGHUP, Stopped)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
@pytest.mark.parametrize("later", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_later_signals_do_not_disturb_the_clean_up(
    number: signal.Signals, kind: type[BaseException], later: signal.Signals
) -> None:
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(number)
        finally:
            for _ in range(8):
                signal.raise_signal(later)
            try:
                raise OSError
            except OSError:  # clean-up handles errors of its own
                signal.raise_signal(later)
            cleaned.append(True)

    with pytest.raises(kind) as ended:
        work()
    assert cleaned == [True]
    assert not isinstance(ended.value, Stopped) or ended.value.code == 128 + number


def test_a_signal_that_was_lost_lets_the_next_one_through() -> None:
    with suppress(BaseException):  # as much code does
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)


def test_an_error_made_of_a_signal_is_told_from_another() -> None:
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except SystemExit:
            raise LookupError from None

    with pytest.raises(LookupError) as ended:
        work()
    assert isinstance(behind(ended.value), Stopped)
    for other in (KeyboardInterrupt(), SystemExit(0), Interrupted(), None):
        assert behind(other) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["SIGINT", "SIGHUP"])
def test_what_the_system_ignores_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    signals.listen()
    signal.raise_signal(number)


def test_at_the_end_all_are_ignored() -> None:
    signals.ignore()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(number)
