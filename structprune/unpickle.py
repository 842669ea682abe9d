"""Reading what ``torch.save`` wrote without running what is in it.

A pickle is a program. None is executed here: ``torch.load(weights_only=True)`` interprets it with an
allow-list. Plain state dicts need no more than its defaults. For a network pickled whole, the list is
extended by exact classes, and even these are not handed to the pickle: it sees **records**, inert stand-ins
that keep what they are given. Only when the whole file has been read are modules made from them, by
``cls.__new__`` and ``__setstate__``, each judged first; no constructor runs on arguments from the file.

An allowed class is an ``nn.Module`` subclass defined in torch.nn, torchvision, timm or structprune, found by
walking what these packages define, never by importing what the file names and never by a prefix of a name.
Functions are refused.
"""

from __future__ import annotations

import functools
import pickle
import pickletools
import sys
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from structprune.errors import InputError, StructpruneError, UnsafeCheckpointError

# Packages whose nn.Module subclasses may appear in a pickle, and how to have them all defined.
TRUSTED_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch.nn": ("torch.nn",),
    "torchvision": ("torchvision.models", "torchvision.ops"),
    "timm": ("timm.models",),
    "structprune": ("structprune.models",),
}

# These carry generated source code and compile it.
GENERATED = (torch.fx.GraphModule, torch.jit.ScriptModule)

# torch.nn.Module calls what is in these; a network that computes by them can be neither trusted nor pruned.
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_compiled_call_impl",
)

TRUST = "pass --trust-pickle if you trust its author: reading it runs the code in it"


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


class _Record:
    """A stand-in for an instance of an allowed class, made while the pickle is read."""

    target: ClassVar[Any] = None

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Record:
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


def load(path: Path, *, trust_pickle: bool = False) -> Any:
    """Read a file written by ``torch.save``: a state dict, a dict around one, or a whole network.

    Args:
        path: the file, in torch's zip form or in the older one.
        trust_pickle: the user's word that the file may run code; everything is then unpickled as it stands.

    Returns:
        What was saved, on the CPU.

    Raises:
        UnsafeCheckpointError: reading it would import or call what is not on the allow-list.
        InputError: the file is damaged or cut short.
    """
    if trust_pickle:
        return _load_trusted(path)
    names = list(globals_of(path))
    records = {name: _record(name, target) for name, target in _allowed(names).items()}
    with torch.serialization.safe_globals(list(records.values())):
        _refuse_unknown(path, names, set(records))
        raw = _load_weights_only(path)
    try:
        return _Builder().build(raw)
    except RecursionError as error:
        raise InputError(f"{path.name} nests too deeply to be a network") from error


def _load_trusted(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except StructpruneError:
        raise
    except Exception as error:  # the pickle runs foreign code, which may raise anything
        raise InputError(f"{path.name} can't be unpickled: {_first_line(error)}") from error


def _load_weights_only(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # Pickle protocols other than 2 and TypedStorage are torch's business, not the reader's.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        EOFError,
        RuntimeError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        raise InputError(f"{path.name} is damaged or cut short: {_first_line(error)}") from error
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(_refusal(path, _reason(error))) from error


def _reason(error: pickle.UnpicklingError) -> str:
    """Torch's own reason, without its advice to load the file unsafely."""
    _, _, reason = str(error).partition("WeightsUnpickler error: ")
    if "persistent_load" in reason:
        return "it is a whole network in torch's older form, which carries source code"
    return _first_line(Exception(reason.strip() or str(error))).partition(" was not an allowed")[0]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# What a pickle names --------------------------------------------------------------------------------------


def globals_of(path: Path) -> Iterator[str]:
    """Yield ``module.name`` of every global that the pickles in a file name, without executing any.

    Raises:
        InputError: the file is damaged or cut short.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith("data.pkl"):
                        yield from _globals_in(archive.open(member))
            return
        with path.open("rb") as file:
            yield from _globals_in_legacy(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path.name} is damaged or cut short: {_first_line(error)}") from error


def _globals_in_legacy(file: IO[bytes]) -> Iterator[str]:
    """The older form is five pickles and then raw storages; a raw pickle is one."""
    for _ in range(5):
        try:
            yield from _globals_in(file)
        except ValueError:  # storages, or the file's end
            return


def _globals_in(file: IO[bytes]) -> Iterator[str]:
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield _modern(*str(argument).split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            # The two strings in front. Where they come from the memo this name is wrong, which only the
            # message shows: torch's reader does not know the opcode and refuses it.
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)


def _modern(module: str, name: str) -> str:
    """The full name in Python 3 of a global that protocol 2 may name as in Python 2: ``__builtin__ set``."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


# What is allowed ------------------------------------------------------------------------------------------


def _allowed(names: list[str]) -> dict[str, Any]:
    """The named globals that are allowed classes, and partial."""
    packages = {
        package for package in TRUSTED_PACKAGES if any(name.startswith(package + ".") for name in names)
    }
    known: dict[str, Any] = {}
    for package in sorted(packages):
        known |= module_classes(package)
    known["functools.partial"] = functools.partial
    return {name: known[name] for name in names if name in known}


@functools.cache
def module_classes(package: str) -> Mapping[str, type[nn.Module]]:
    """Every ``nn.Module`` subclass that a trusted package defines, by full name.

    Args:
        package: a key of :data:`TRUSTED_PACKAGES`; where it is not installed there are none.
    """
    try:
        for name in TRUSTED_PACKAGES[package]:
            __import__(name)
    except ImportError:
        return {}
    inside = [module for name, module in list(sys.modules.items()) if name.startswith(package + ".")]
    return {
        f"{value.__module__}.{value.__qualname__}": value
        for module in inside
        for value in list(vars(module).values())
        if _is_plain_module(value) and value.__module__ == module.__name__
    }


def _is_plain_module(value: object) -> TypeGuard[type[nn.Module]]:
    return isinstance(value, type) and issubclass(value, nn.Module) and not issubclass(value, GENERATED)


def _record(name: str, target: Any) -> type[_Record]:
    """A record class that answers to ``name``, for torch looks an allowed class up by module and name."""
    module, _, short = name.rpartition(".")
    return type(short, (_Record,), {"target": target, "__module__": module, "__qualname__": short})


def _refuse_unknown(path: Path, names: list[str], allowed: set[str]) -> None:
    # torch.serialization.get_unsafe_globals_in_checkpoint says the same, but of zip files of protocol 2 only.
    from torch._weights_only_unpickler import _get_allowed_globals

    unsafe = {name for name in names if name not in allowed and name not in _get_allowed_globals()}
    if unsafe:
        raise UnsafeCheckpointError(_refusal(path, "it names " + ", ".join(sorted(unsafe))))


def _refusal(path: Path, why: str) -> str:
    return (
        f"{path.name} was not read: {why}, and only tensors and the classes of known networks are allowed;"
        f" save the state dict instead (torch.save(model.state_dict(), ...)), or {TRUST}"
    )


# From records to modules ----------------------------------------------------------------------------------


class _Builder:
    """Turns records into what they stand for, each once, keeping shared references shared."""

    def __init__(self) -> None:
        self._built: dict[int, Any] = {}
        self._alive: list[Any] = []  # ids stay unique only while the objects live

    def build(self, raw: Any) -> Any:
        if isinstance(raw, type) and issubclass(raw, _Record):
            return raw.target
        if not isinstance(raw, (_Record, dict, list, tuple, set)) or isinstance(raw, torch.Size):
            return raw
        if id(raw) not in self._built:
            self._alive.append(raw)
            self._built[id(raw)] = self._make(raw)
        return self._built[id(raw)]

    def _make(self, raw: Any) -> Any:
        if isinstance(raw, _Record):
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

    def _partial(self, record: _Record) -> KeptPartial:
        state = record.state if isinstance(record.state, tuple) and len(record.state) == 4 else None
        if state is None or not isinstance(state[1], tuple) or not isinstance(state[2], dict):
            raise UnsafeCheckpointError(f"a functools.partial in the file is malformed; {TRUST}")
        return KeptPartial(self.build(state[0]), self.build(state[1]), self.build(state[2]))

    def _module(self, record: _Record) -> nn.Module:
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


def _judge(cls: type[nn.Module], state: Mapping[Any, Any]) -> None:
    """Refuse a module state that would change what the class's code does, or that is no module state.

    Raises:
        UnsafeCheckpointError: an attribute hides a method, or there are hooks.
        InputError: parameters, buffers or submodules are of the wrong type.
    """
    for name in state:
        if not isinstance(name, str) or callable(getattr(cls, name, None)):
            raise UnsafeCheckpointError(f"an attribute {name!r} hides the method of {cls.__name__}; {TRUST}")
    if hooks := [name for name in HOOKS if state.get(name) not in (None, {})]:
        raise UnsafeCheckpointError(f"a {cls.__name__} carries {hooks[0]}, which it would call; {TRUST}")
    for table, kind in (("_parameters", Tensor), ("_buffers", Tensor), ("_modules", nn.Module)):
        entries = state.get(table)
        if not isinstance(entries, dict) or not all(
            value is None or isinstance(value, kind) for value in entries.values()
        ):
            raise InputError(f"the {table.strip('_')} of a {cls.__name__} in the file are damaged")
