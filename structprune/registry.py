"""Names to functions, with plug-ins that are loaded only when they are named."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from structprune.errors import UnknownNameError, UsageError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """A table of names, extended by the entry points of installed packages.

    A plug-in package adds a name without touching ours, in its own ``setup.cfg``::

        [options.entry_points]
        structprune.criteria =
            my_score = my_package.scores:my_score

    Args:
        kind: what an entry is, for messages: ``"criterion"``.
        group: the entry-point group that plug-ins use, or None for a closed table.

    Example:
        >>> shapes: Registry[int] = Registry("shape")
        >>> _ = shapes.register("square")(4)
        >>> shapes["square"]
        4
        >>> shapes["sqare"]
        Traceback (most recent call last):
        ...
        structprune.errors.UnknownNameError: unknown shape 'sqare'; did you mean 'square'? known: square
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that files its argument under ``name``."""

        def file(entry: Entry) -> Entry:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return file

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries and name in self._plugins():
            self._entries[name] = self._load(name)
        if name not in self._entries:
            raise UnknownNameError(self._unknown(name))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._plugins()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._entries, *self._plugins()}))

    def _plugins(self) -> dict[str, str]:
        if self.group is None:
            return {}
        return {point.name: point.value for point in entry_points(group=self.group)}

    def _load(self, name: str) -> Entry:
        assert self.group is not None, "only plug-ins are loaded"
        (point,) = entry_points(group=self.group, name=name)
        try:
            entry: Entry = point.load()
        except Exception as error:
            raise UsageError(
                f"the plug-in {point.value} for {self.kind} {name!r} can't be loaded: {error}"
            ) from error
        return entry

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name, list(self), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown {self.kind} {name!r}; {hint}known: {', '.join(self)}"
