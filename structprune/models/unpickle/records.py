"""Stand-ins for what a pickle would make, and the modules that are made of them once they are judged."""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from structprune.errors import InputError, UnsafeCheckpointError, argument
from structprune.models.unpickle.allowed import Discarded, Holder

# torch.nn.Module calls what is in these; a network that computes by them can be neither trusted nor pruned.
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_compiled_call_impl",
)

TRUST = f"pass {argument('trust_pickle')} if you trust its author: reading it runs the code in it"


@dataclass(frozen=True)
class KeptPartial:
    """What is left of a ``functools.partial`` in a pickle: its arguments, and nothing that could be called.

    Attributes:
        function: the class that it would have called.
        args: its positional arguments.
        keywords: its keyword arguments.
    """

    function: Any
    args: tuple[Any, ...]
    keywords: Mapping[str, Any]


class Record:
    """A stand-in for an instance of an allowed class, made while the pickle is read."""

    target: ClassVar[Any] = None

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Record:  # noqa: D102
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


def record_class(name: str, target: Any) -> type[Record]:
    """A record class that answers to ``name``, for torch looks an allowed class up by module and name."""
    module, _, short = name.rpartition(".")
    return type(short, (Record,), {"target": target, "__module__": module, "__qualname__": short})


class Builder:
    """Turns records into what they stand for, each once, keeping shared references shared."""

    def __init__(self) -> None:
        self._built: dict[int, Any] = {}
        self._alive: list[Any] = []  # ids stay unique only while the objects live

    def build(self, raw: Any) -> Any:
        """Return what ``raw`` stands for; anything but records and containers is returned as it is."""
        if isinstance(raw, type) and issubclass(raw, Record):
            _refuse_discarded(raw)
            return raw.target
        if not isinstance(raw, (Record, dict, list, tuple, set)) or isinstance(raw, torch.Size):
            return raw
        if id(raw) not in self._built:
            self._alive.append(raw)
            self._built[id(raw)] = self._make(raw)
        return self._built[id(raw)]

    def _make(self, raw: Any) -> Any:
        if isinstance(raw, Record):
            _refuse_discarded(type(raw))
            if isinstance(raw.target, Holder):
                return self._held(raw, raw.target.attribute)
            return self._partial(raw) if raw.target is functools.partial else self._module(raw)
        if isinstance(raw, dict):
            return self._dict(raw)
        return type(raw)(self.build(item) for item in raw)

    def _dict(self, raw: dict[Any, Any]) -> dict[Any, Any]:
        made: dict[Any, Any] = OrderedDict() if isinstance(raw, OrderedDict) else {}
        if isinstance(raw, Counter):
            made = Counter()
        made.update({key: self.build(value) for key, value in raw.items()})
        if vars_of := getattr(raw, "__dict__", None):
            # A state dict carries its versions as an attribute.
            made.__dict__.update(self.build(dict(vars_of)))
        return made

    def _partial(self, record: Record) -> KeptPartial:
        state = record.state if isinstance(record.state, tuple) and len(record.state) == 4 else None
        if state is None or not isinstance(state[1], tuple) or not isinstance(state[2], dict):
            raise UnsafeCheckpointError(f"a functools.partial in the file is malformed; {TRUST}")
        return KeptPartial(self.build(state[0]), self.build(state[1]), self.build(state[2]))

    def _held(self, record: Record, attribute: str) -> nn.Module:
        """The network in a wrapper, whose own ``__setstate__`` may want a process group or more."""
        name = type(record).__name__
        state = record.state if isinstance(record.state, dict) else {}
        inside = state.get("_modules")
        held = self.build(inside.get(attribute)) if isinstance(inside, dict) else None
        if not isinstance(held, nn.Module):
            raise InputError(f"the {name} in the file holds no network; save the network itself")
        if hooks := _hooks_in(state):
            raise UnsafeCheckpointError(
                f"the {name} in the file carries {hooks}, which it would call; {TRUST}"
            )
        return held

    def _module(self, record: Record) -> nn.Module:
        cls = record.target
        if record.args or not isinstance(record.state, dict):
            raise UnsafeCheckpointError(
                f"the file calls {cls.__name__}, which no saved network does; {TRUST}"
            )
        module = cast(nn.Module, cls.__new__(cls))
        self._built[id(record)] = module  # before its state, which may refer back to it
        state = self.build(record.state)
        _judge(cls, state)
        module.__setstate__(state)  # type: ignore[no-untyped-call]
        return module


def _refuse_discarded(record: type[Record]) -> None:
    if record.target is Discarded:
        raise UnsafeCheckpointError(
            f"the file holds a {record.__name__} outside of what wraps a network; {TRUST}"
        )


def _hooks_in(state: Mapping[Any, Any]) -> str | None:
    return next((name for name in HOOKS if state.get(name) not in (None, {})), None)


def _judge(cls: type[nn.Module], state: Mapping[Any, Any]) -> None:
    """Refuse a module state that would change what the class's code does, or that is no module state.

    Raises:
        UnsafeCheckpointError: an attribute hides a method, or there are hooks.
        InputError: parameters, buffers or submodules are of the wrong type.
    """
    for name in state:
        if not isinstance(name, str) or callable(getattr(cls, name, None)):
            raise UnsafeCheckpointError(f"an attribute {name!r} hides the method of {cls.__name__}; {TRUST}")
    if hooks := _hooks_in(state):
        raise UnsafeCheckpointError(f"a {cls.__name__} carries {hooks}, which it would call; {TRUST}")
    for table, kind in (("_parameters", Tensor), ("_buffers", Tensor), ("_modules", nn.Module)):
        entries = state.get(table)
        if not isinstance(entries, dict) or not all(
            value is None or isinstance(value, kind) for value in entries.values()
        ):
            raise InputError(f"the {table.strip('_')} of a {cls.__name__} in the file are damaged")
