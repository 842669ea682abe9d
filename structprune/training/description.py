"""A network beyond its shapes: the classes and settings of its modules, and the code that they come from."""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from structprune.training.checksums import DIGITS, digest_of, tensors_digest

Description = dict[str, dict[str, str]]
"""Module -> what there is to know of it -> in words."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, Path)
DEEPEST = 4
LONGEST = 200
TOLD_OTHERWISE = frozenset({"training", "_parameters", "_buffers", "_modules"})
"""Attributes of every module that tensors, modules and modes are told by elsewhere."""

FRAMEWORK = frozenset({"torch", "builtins", "collections", "abc", "typing"})
"""Packages whose classes are known by their names; all others by their code too."""


def layers_of(model: nn.Module) -> Description:
    """Describe every module by its class, its own settings, and the kinds of its own tensors."""
    return {name: _layer(module) for name, module in model.named_modules()}


def _layer(module: nn.Module) -> dict[str, str]:
    tensors = {
        name: f"{x.dtype} {tuple(x.shape)}"
        + ", frozen" * (isinstance(x, nn.Parameter) and not x.requires_grad)
        for name, x in chain(
            module.named_parameters(recurse=False, remove_duplicate=False),
            module.named_buffers(recurse=False, remove_duplicate=False),
        )
    }
    settings = {name: _short(described(value)) for name, value in _settings(module)}
    return {"class": _name_of(type(module)), **settings, **tensors}


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what a module holds beside modules and tensors; of torch's own bookkeeping what is not empty."""
    for name, value in sorted(vars(module).items()):
        bookkeeping = name.startswith("_") and isinstance(value, (dict, set, list, type(None), bool))
        if name not in TOLD_OTHERWISE and not (bookkeeping and not value):
            yield name, _without_numbers(value) if name.endswith("_hooks") else value


def _without_numbers(hooks: Any) -> Any:
    # Numbers of hooks count over the whole process.
    return list(hooks.values()) if isinstance(hooks, dict) else hooks


def described(value: Any) -> str:
    """Describe a value so that equal values of two processes have equal descriptions."""
    return _Walk(set()).described(value)


@dataclass(frozen=True)
class _Walk:
    """A walk through what a value holds, into every object once.

    Attributes:
        entered: the identities of objects that were described.
        depth: how far in.
    """

    entered: set[int]
    depth: int = 0

    def described(self, value: Any) -> str:
        if isinstance(value, PLAIN):
            return repr(value)
        describe = next((each for kinds, each in DESCRIBERS if isinstance(value, kinds)), _object)
        return describe(value, _Walk(self.entered, self.depth + 1).described)

    def enters(self, value: Any) -> bool:
        new = id(value) not in self.entered and self.depth <= DEEPEST
        self.entered.add(id(value))
        return new


Inner = Callable[[Any], str]


def _object(value: Any, inner: Inner) -> str:
    walk: _Walk = inner.__self__  # type: ignore[attr-defined]
    name = _name_of(type(value))
    if _framework(type(value)) or not walk.enters(value):
        return name
    return f"{name}({', '.join(f'{key}={inner(each)}' for key, each in sorted(_attributes(value)))})"


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    slots = chain.from_iterable(getattr(base, "__slots__", ()) for base in type(value).__mro__)
    yield from ((name, getattr(value, name)) for name in slots if hasattr(value, name))


def _module(value: nn.Module, inner: Inner) -> str:
    walk: _Walk = inner.__self__  # type: ignore[attr-defined]
    name = _name_of(type(value))
    return f"{name}{inner(dict(_settings(value)))}{inner(value._modules)}" if walk.enters(value) else name


def _function(value: Any, inner: Inner) -> str:
    held = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
    given = [*(value.__defaults__ or ()), *sorted((value.__kwdefaults__ or {}).items()), *held]
    code = digest_of(_code_pieces(value.__code__))
    return f"{_name_of(value)} of code {code}" + f" with {', '.join(map(inner, given))}" * bool(given)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _code_pieces(code: CodeType) -> Iterator[bytes]:
    """Yield what a function does, not where it stands."""
    yield code.co_code
    yield repr((code.co_names, code.co_varnames)).encode()
    for constant in code.co_consts:
        yield from (
            _code_pieces(constant) if isinstance(constant, CodeType) else (described(constant).encode(),)
        )


def _listed(value: Iterable[Any], inner: Inner) -> str:
    return f"[{', '.join(map(inner, value))}]"


DESCRIBERS: tuple[tuple[Any, Callable[[Any, Inner], str]], ...] = (
    (Tensor, lambda x, _: f"{x.dtype} {tuple(x.shape)} {tensors_digest([x])}"),
    (np.ndarray, lambda x, _: f"{x.dtype} {x.shape} {digest_of([x.tobytes()])}"),
    (Mapping, lambda x, inner: _listed(sorted(f"{inner(k)}: {inner(v)}" for k, v in x.items()), str)),
    ((set, frozenset), lambda x, inner: _listed(sorted(map(inner, x)), str)),
    ((list, tuple, deque), _listed),
    (np.generic, lambda x, _: repr(x.item())),
    ((range, slice), lambda x, _: repr(x)),
    (type, lambda x, _: _name_of(x)),
    (ModuleType, lambda x, _: x.__name__),
    (FunctionType, _function),
    (MethodType, lambda x, inner: f"{_name_of(type(x.__self__))}.{inner(x.__func__)}"),
    (BuiltinFunctionType, lambda x, _: _name_of(x)),
    (partial, lambda x, inner: f"{inner(x.func)} with {inner(x.args)} {inner(x.keywords)}"),
    (nn.Module, _module),
)
"""Kinds of values, and how each is described; whatever is none of these is described by its attributes."""


def _name_of(value: Any) -> str:
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or repr(value)
    return f"{module}.{name}" if module else str(name)


def _short(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]} ... ({hashlib.sha256(text.encode()).hexdigest()[:DIGITS]})"


# Code ------------------------------------------------------------------------------------------------------


def code_of(model: nn.Module) -> dict[str, str]:
    """Checksums of the code of a network: Python module -> the first digits of its source's SHA-256.

    These are the modules that its classes and their bases are defined in, and those of the user's own that
    these name, since a function beside a class may compute too. Classes without a source are told by their
    functions' code.
    """
    classes = {base for module in model.modules() for base in type(module).__mro__ if not _framework(base)}
    found: dict[str, str] = {}
    waiting = sorted({each.__module__ for each in classes})
    while waiting:
        name = waiting.pop()
        source = _source(sys.modules.get(name))
        if name in found or source is None:
            continue
        found[name] = digest_of([source])
        waiting += [other for other in _named_in(sys.modules[name]) if other not in found]
    compiled = {_name_of(each): _compiled(each) for each in classes if each.__module__ not in found}
    return dict(sorted({**found, **compiled}.items()))


def _framework(value: Any) -> bool:
    return str(value.__module__).partition(".")[0] in FRAMEWORK


def _source(module: ModuleType | None) -> bytes | None:
    """The text of a module as it lies on the disk now."""
    if module is None:
        return None
    try:
        return inspect.getsource(module).encode("utf-8", "surrogateescape")
    except (OSError, TypeError):
        return None


def _named_in(module: ModuleType) -> Iterator[str]:
    """Yield the modules of the user's own that a module's names come from."""
    for value in vars(module).values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name in sys.modules and _is_the_users(sys.modules[name]):
            yield name


INSTALLED = tuple(Path(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib", "purelib", "platlib"))
OURS = Path(__file__).parents[1]


def _is_the_users(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return False
    path = Path(file)
    packaged = {"site-packages", "dist-packages"} & set(path.parts)
    return not packaged and not any(path.is_relative_to(place) for place in (*INSTALLED, OURS))


def _compiled(cls: type) -> str:
    functions = (value for _, value in sorted(vars(cls).items()) if isinstance(value, FunctionType))
    return digest_of(piece for each in functions for piece in _code_pieces(each.__code__))
