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

A message says what was got, what was expected and what to do, in one sentence where that is possible.
"""

from __future__ import annotations


class StructpruneError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is what the command line ends with."""

    exit_code = 1


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
