"""What a network returns, as tensors: from sequences, mappings, dataclasses and objects of anyone's alike.

A cache of keys and values, a distribution or a result object has no equality of its own: two of them are
the same where they are built alike and the tensors inside are. So everything that compares outputs takes
them apart here, and neither an object's identity nor its ``__eq__`` has a say.

What lies in a cache is no result: a network hands it out to take it back in, and a cut network's own holds
fewer heads. It is told apart by its class, one of whose names ends in ``Cache``, as in transformers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import SUPPORTED_NODES

from structprune.errors import InputError

DEEPEST = 200
"""Levels of nesting that are followed; a chain of objects may have no end."""

_PLAIN = (bool, int, str, bytes, type(None), torch.dtype, torch.device, torch.layout, enum.Enum, np.generic)
"""What is described by its value."""

_OPAQUE = (
    nn.Module,
    torch.Generator,
    type,
    ModuleType,
    FunctionType,
    MethodType,
    BuiltinFunctionType,
)
"""What is described by its type: a network or a function among the outputs is none of them."""


@dataclass(frozen=True)
class Outputs:
    """What a network returned, taken apart.

    Attributes:
        tensors: every tensor inside, in the order in which it is found. Arrays of NumPy and finite Python
            floats are among them, since they are computed as tensors are.
        names: where each of them lies: ``("logits", "boxes.corners")``.
        structure: everything else in words: types, keys, lengths, attributes, numbers and strings. Equal for
            two outputs that differ in nothing but their tensors' contents.
        states: the tensors of caches, by where they lie: ``"past_key_values.layers.0.keys"``. A cut may make
            them smaller, see :func:`counterpart`.
    """

    tensors: tuple[Tensor, ...]
    names: tuple[str, ...]
    structure: str
    states: Mapping[str, Tensor]


def outputs_of(value: object) -> Outputs:
    """Take an output apart.

    Args:
        value: what a forward pass returned: a tensor, or any nest of sequences, mappings, dataclasses and
            objects; cycles are followed once.

    Raises:
        InputError: it is nested in more than 200 levels.

    Example:
        >>> found = outputs_of({"depth": torch.ones(2), "scales": (1, 0.5)})
        >>> found.names, found.structure
        (('depth', 'scales.1'), 'dict(depth=*, scales=tuple(0=1, 1=*))')
    """
    walk = _Walk()
    structure = walk.described(value, ())
    return Outputs(tuple(walk.tensors), tuple(walk.names), structure, walk.states)


def tensors_of(value: object) -> list[Tensor]:
    """Return the tensors of an output but those of caches, in the order of :func:`outputs_of`."""
    return list(outputs_of(value).tensors)


def paired(whole: Outputs, part: Outputs) -> list[tuple[Tensor, Tensor]] | None:
    """Lay the outputs of a dense network beside those of a cut one, states beside what they ought to equal.

    Returns:
        Pairs of tensors, of one shape each; None where the outputs differ in structure or shape.
    """
    if whole.structure != part.structure or whole.states.keys() != part.states.keys():
        return None
    states = [(counterpart(whole.states[name], x), x) for name, x in part.states.items()]
    pairs = [*zip(whole.tensors, part.tensors, strict=True), *states]
    fitting = [(a, b) for a, b in pairs if a is not None and a.shape == b.shape]
    return fitting if len(fitting) == len(pairs) else None


def counterpart(whole: Tensor, part: Tensor) -> Tensor | None:
    """Find in a dense network's cached state what a cut network's state ought to equal.

    Args:
        whole: of the dense network, (..., C, ...).
        part: of the cut one, of the same shape but for one dimension, which is shorter: (..., K, ...).

    Returns:
        Of ``whole`` the K slices along that dimension, in their order, that are nearest to those of ``part``;
        all of it where both are of one shape; None where the shapes differ otherwise.

    Example:
        >>> counterpart(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 3.1]]))
        tensor([[1., 3.]])
    """
    if whole.shape == part.shape:
        return whole
    dims = [d for d in range(part.dim()) if whole.dim() == part.dim() and whole.shape[d] > part.shape[d]]
    if len(dims) != 1 or _besides(whole, dims[0]) != _besides(part, dims[0]):
        return None
    rows = [x.movedim(dims[0], 0).flatten(1).double() for x in (whole, part)]
    apart_CK = torch.cdist(rows[0], rows[1])
    chosen, first = [], 0
    for k in range(part.shape[dims[0]]):
        last = whole.shape[dims[0]] - (part.shape[dims[0]] - k) + 1
        first += int(apart_CK[first:last, k].argmin())
        chosen.append(first)
        first += 1
    return whole.index_select(dims[0], torch.tensor(chosen, device=whole.device))


def _besides(x: Tensor, dim: int) -> list[int]:
    return [size for d, size in enumerate(x.shape) if d != dim]


@dataclass
class _Walk:
    """One pass over a nest of anything."""

    tensors: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    states: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[int, tuple[int, object]] = field(default_factory=dict)

    def described(self, value: object, path: tuple[str, ...], cached: bool = False) -> str:
        """Describe a value, and gather the tensors in it on the way, those of a cache by themselves."""
        if len(path) > DEEPEST:
            raise InputError(
                f"the network returns values nested in more than {DEEPEST} levels, in {'.'.join(path[:3])}; "
                "return tensors, or sequences, dicts or objects of them"
            )
        tensor = _as_tensor(value)
        if tensor is not None:
            self._gather(tensor, ".".join(path), cached)
            return "*"
        if isinstance(value, (*_PLAIN, float, complex)):
            return _name(value) if isinstance(value, enum.Enum) else repr(value)
        if isinstance(value, _OPAQUE) or (parts := _parts(value)) is None:
            return f"<{type(value).__qualname__}>"
        # A tuple can't hold itself, and Python may make one of two that are equal.
        if not isinstance(value, tuple):
            if id(value) in self.seen:
                return f"<again {self.seen[id(value)][0]}>"
            self.seen[id(value)] = len(self.seen), value  # kept alive, so that the number stays its own
        cached = cached or _is_cache(value)
        inside = [f"{key}={self.described(part, (*path, key), cached)}" for key, part in parts]
        return f"{type(value).__qualname__}({', '.join(inside)})"

    def _gather(self, tensor: Tensor, name: str, cached: bool) -> None:
        if cached:
            self.states[name] = tensor
        else:
            self.tensors.append(tensor)
            self.names.append(name)


def _is_cache(value: object) -> bool:
    return any(kind.__name__.endswith("Cache") for kind in type(value).__mro__)


def _as_tensor(value: object) -> Tensor | None:
    """Return a tensor, or what is computed as one is, as a tensor; None for anything else."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, float | complex) and np.isfinite(value):
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.complex128)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value, order="C"))
    return None


def _name(value: enum.Enum) -> str:
    return f"{type(value).__qualname__}.{value.name}"


def _parts(value: object) -> list[tuple[str, Any]] | None:
    """Return what a container or an object holds, by name; None where it holds nothing that can be seen."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if type(value) in SUPPORTED_NODES and not isinstance(value, list | tuple):
        children, _ = SUPPORTED_NODES[type(value)].flatten_fn(value)
        return _numbered(children)
    if isinstance(value, Set):
        # Without an order of their own; what has no words of its own is counted only.
        return [("items", ", ".join(sorted(repr(x) if isinstance(x, _PLAIN) else "?" for x in value)))]
    if isinstance(value, list | tuple):
        return _numbered(value)
    if isinstance(value, Iterator):
        return None  # reading it would use it up
    attributes = list(_attributes(value))
    if attributes or hasattr(value, "__dict__"):
        return attributes
    return _numbered(value) if isinstance(value, Iterable) else None


def _numbered(values: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(str(position), part) for position, part in enumerate(values)]


def _attributes(value: object) -> Iterator[tuple[str, Any]]:
    """Yield an object's attributes, those in slots too, by name and in the alphabet's order."""
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    yield from sorted({**found, **getattr(value, "__dict__", {})}.items())


def _slots(kind: type) -> Iterable[str]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else [name for name in slots if not name.startswith("__")]
