"""Control flow of a forward pass: where Python reads a value, compares a shape or reads ``training``.

A branch that no input of a comparison takes is a branch about which the comparison says nothing. So one pass
is watched, and the numbers that sizes are compared with say which sizes take the other branch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from structprune.nn.batch_norm import evaluating
from structprune.nn.precision import exact_arithmetic
from structprune.proofs.comparison.gap import Inputs
from structprune.report.data import Branch, BranchKind


def branches(model: nn.Module, inputs: Inputs) -> tuple[Branch, ...]:
    """Run a network once and list what its own code, and no library of torch's, asks for.

    Args:
        model: a network that may be run.
        inputs: positional inputs.

    Returns:
        Every branch once, in the order of the pass; those up to an error, where the pass ends in one.
    """
    notebook = _Notebook({id(module): name for name, module in model.named_modules()})
    clones = tuple(x.clone() for x in inputs)
    with (
        suppress(Exception),
        torch.no_grad(),
        exact_arithmetic(),
        evaluating(model),
        _training_read(model, notebook),
        _Watcher(notebook),
    ):
        model(*clones)
    return tuple(dict.fromkeys(notebook.branches))


@dataclass
class _Notebook:
    """Branches seen so far, and the names of modules by identity."""

    names: Mapping[int, str]
    branches: list[Branch] = field(default_factory=list)

    def note(
        self, kind: BranchKind, frame: FrameType, size: int | None = None, bound: float | None = None
    ) -> None:
        if Path(frame.f_code.co_filename).is_relative_to(_TORCH):
            return
        line = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        self.branches.append(Branch(kind, self._module(frame), line, size, bound))

    def _module(self, frame: FrameType | None) -> str:
        while frame is not None:
            name = self.names.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return ""


_TORCH = Path(torch.__file__).parent


class _Size(int):
    """A size of a tensor that notes what it is compared with; so does what is computed from it."""

    notebook: _Notebook

    def _compared(self, other: Any) -> None:
        # Emptiness is no branch between two ways to compute.
        if isinstance(other, (int, float)) and float(other):
            self.notebook.note("shape", sys._getframe(2), int(self), float(other))


class _Ratio(float):
    """A quotient of a size, which notes what it is compared with in the units of the size."""

    notebook: _Notebook
    size: int

    def _compared(self, other: Any) -> None:
        if isinstance(other, (int, float)) and float(other) and float(self):
            self.notebook.note("shape", sys._getframe(2), self.size, float(other) * self.size / float(self))


def _sized(value: int, notebook: _Notebook) -> _Size:
    size = _Size(value)
    size.notebook = notebook
    return size


def _comparison(kind: type, name: str) -> Any:
    compare = getattr(kind, name)

    def method(self: Any, other: Any) -> Any:
        self._compared(other)
        return compare(self, other)

    return method


def _arithmetic(name: str) -> Any:
    compute = getattr(int, name)

    def method(self: _Size, other: Any) -> Any:
        result = compute(self, other)
        return _sized(result, self.notebook) if type(result) is int else result

    return method


def _divided(self: _Size, other: Any) -> Any:
    result = int.__truediv__(self, other)
    if type(result) is not float:
        return result
    ratio = _Ratio(result)
    ratio.notebook, ratio.size = self.notebook, int(self)
    return ratio


def _asked(self: _Size) -> bool:
    """Truth of a size, as of ``height % 2``; which sizes take the other branch, it does not say."""
    self.notebook.note("shape", sys._getframe(1), int(self))
    return int.__bool__(self)


for _kind, _parent in ((_Size, int), (_Ratio, float)):
    for _name in ("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"):
        setattr(_kind, _name, _comparison(_parent, _name))
    setattr(_kind, "__hash__", _parent.__hash__)  # noqa: B010  a class with __eq__ has none of its own
for _name in ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__floordiv__", "__mod__"):
    setattr(_Size, _name, _arithmetic(_name))
for _name, _method in (("__truediv__", _divided), ("__bool__", _asked)):
    setattr(_Size, _name, _method)


# fmt: off
_SIZES = {Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.__len__}
_VALUES = {
    Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.__contains__, Tensor.item,
    Tensor.tolist, Tensor.numpy, Tensor.equal, Tensor.allclose, Tensor.is_nonzero, torch.equal,
    torch.allclose, torch.is_nonzero, Tensor.nonzero, torch.nonzero, Tensor.unique, torch.unique,
}
# fmt: on
_SHAPES = (Tensor.shape.__get__, Tensor.ndim.__get__)  # type: ignore[attr-defined]


class _Watcher(TorchFunctionMode):
    """Hands out sizes that take notes, and notes where values are read."""

    def __init__(self, notebook: _Notebook) -> None:
        super().__init__()
        self.notebook = notebook

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _VALUES:
            self.notebook.note("value", sys._getframe(1))
        elif func in _SIZES or func in _SHAPES:
            return self._taking_notes(result)
        return result

    def _taking_notes(self, result: Any) -> Any:
        if isinstance(result, torch.Size):
            return torch.Size([_sized(size, self.notebook) for size in result])
        return _sized(result, self.notebook)


@contextmanager
def _training_read(model: nn.Module, notebook: _Notebook) -> Iterator[None]:
    """Note where a module's own code reads ``training``, by a property of its class while the block runs."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__ if _may_read(kind)}
    watched = [kind for kind in kinds if "training" not in vars(kind)]
    try:
        for kind in watched:
            setattr(kind, "training", _training(notebook))  # noqa: B010  a type has no such attribute
        yield
    finally:
        for kind in watched:
            delattr(kind, "training")


def _may_read(kind: type) -> bool:
    is_torchs = kind.__module__ == "torch" or kind.__module__.startswith("torch.")
    return issubclass(kind, nn.Module) and not is_torchs and not issubclass(kind, torch.jit.ScriptModule)


def _training(notebook: _Notebook) -> property:
    def read(module: nn.Module) -> bool:
        notebook.note("training", sys._getframe(1))
        return bool(module.__dict__["training"])

    def write(module: nn.Module, value: bool) -> None:
        module.__dict__["training"] = value

    return property(read, write)
