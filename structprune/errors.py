"""Every error that structprune raises on purpose, each with the exit code of the command line.

::

    StructpruneError            1   something was wrong with what was given
    ├── InputError              1   a file, a folder, data or a network that can't be used
    ├── OutputError             1   the result can't be written
    ├── UsageError              2   an option that makes no sense
    │   └── UnknownNameError    2   a name that no registry knows
    ├── TargetUnreachableError  3   the budget can't be met
    ├── ProofFailedError        4   the result is not what was meant
    ├── UnsafeCheckpointError   5   reading the file would run code
    └── DeviceUnavailableError  6   the device or execution provider is not there

A message says what was got, what was expected and what to do, in one sentence where that is possible. Where
it speaks of an argument it says which by :func:`argument`, and each interface spells that in its own way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

# Of the private use area: no name of a file or of a layer has them by chance.
_OPEN, _BETWEEN, _CLOSE = "\ue000", "\ue001", "\ue002"
_ARGUMENT = re.compile(f"{_OPEN}(.*?)(?:{_BETWEEN}(.*?))?{_CLOSE}", re.DOTALL)

OTHER_NAMES: Mapping[str, str] = {"input_size": "example_input", "device": "the device of example_input"}
"""Arguments of Python that are called otherwise than the option."""

IN_LIMITS = ("weights", "params", "flops", "disk", "memory", "latency", "speedup")
"""Options that are entries of ``limits`` in Python."""


def argument(name: str, value: object = None) -> str:
    """Name of an argument, with its value where that is given, for a message of :class:`StructpruneError`.

    Example:
        >>> error = UsageError(f"{argument('align', 0)}: expected 1 or more, and no {argument('cut_padded')}")
        >>> str(error)
        'align=0: expected 1 or more, and no cut_padded='
        >>> error.in_shell()
        '--align 0: expected 1 or more, and no --cut-padded'
    """
    if value is None:
        return f"{_OPEN}{name}{_CLOSE}"
    shown = str(value).translate(dict.fromkeys(map(ord, (_OPEN, _BETWEEN, _CLOSE))))
    return f"{_OPEN}{name}{_BETWEEN}{shown}{_CLOSE}"


class StructpruneError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(_spelled(message, _in_python))
        self.message = message

    def in_shell(self) -> str:
        """Message in which arguments are options of the command line."""
        return _spelled(self.message, _in_shell)


def _spelled(message: str, spell: Callable[[str, str | None], str]) -> str:
    return _ARGUMENT.sub(lambda found: spell(found[1], found[2]), message)


def _in_python(name: str, value: str | None) -> str:
    if name in OTHER_NAMES:
        return OTHER_NAMES[name] + (f" {value}" if value else "")
    if name in IN_LIMITS:
        return f"limits={{'{name}': {'...' if value is None else repr(value)}}}"
    return f"{name}={value or ''}"


def _in_shell(name: str, value: str | None) -> str:
    option = f"--{name.replace('_', '-')}"
    return option if value is None else f"{option} {value}"


class InputError(StructpruneError):
    """A file, a folder, data or a network that can't be used."""


class OutputError(StructpruneError):
    """The result can't be written where it was asked for."""


class UsageError(StructpruneError):
    """An option, or a combination of options, that makes no sense."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not registered; the message lists those that are."""


class TargetUnreachableError(StructpruneError):
    """The budget can't be met; the message gives the reachable range and the layers in the way."""

    exit_code = 3


class ProofFailedError(StructpruneError):
    """A proof failed: the result does not compute what was meant."""

    exit_code = 4


class UnsafeCheckpointError(StructpruneError):
    """Reading the file would import or run something that is not on the allow-list."""

    exit_code = 5


class DeviceUnavailableError(StructpruneError):
    """The device or the execution provider asked for is not there."""

    exit_code = 6
