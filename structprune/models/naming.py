"""A network's name on the command line: a zoo's, or ``package.module:factory``."""

from __future__ import annotations

import difflib

from structprune.errors import UnknownNameError, UsageError
from structprune.models.architecture import FACTORY, Architecture
from structprune.models.zoo import ZOOS

BARE = ("structprune", "torchvision")
"""Zoos whose names need no prefix, in the order in which they are asked."""


def architecture_named(spec: str, classes: int | None = None) -> Architecture:
    """Read a zoo's name or ``package.module:factory``; nothing is built or imported for it.

    Raises:
        UnknownNameError: no zoo knows the name.
        UsageError: the zoo is an extra that is not installed.
    """
    arguments = {} if classes is None else {"num_classes": classes}
    prefix, colon, name = spec.partition(":")
    zoos = (prefix,) if colon else BARE
    if colon and prefix not in ZOOS:
        return Architecture(f"{FACTORY}:{spec.removeprefix(FACTORY + ':')}", arguments)
    for zoo in zoos:
        if (name or spec) in ZOOS[zoo].names():
            return Architecture(f"{zoo}:{name or spec}", arguments)
    raise UnknownNameError(_unknown(name or spec, zoos))


def is_zoo(spec: str) -> bool:
    """Whether a zoo knows the name."""
    try:
        return architecture_named(spec).zoo != FACTORY
    except UsageError:
        return False


def _unknown(name: str, zoos: tuple[str, ...]) -> str:
    known = [known for zoo in zoos for known in ZOOS[zoo].names()]
    close = difflib.get_close_matches(name, known, n=3)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else "give a file, a zoo's name or package.module:factory"
    )
    return f"unknown network {name!r}, and there is no such file; {hint}"
