"""Values of its inputs that a forward pass lets Python read: control flow that a trace fixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

aten = torch.ops.aten

VALUELESS = frozenset(
    {
        *(aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.rand_like, aten.randn_like),
        *(aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty, aten.new_empty_strided),
    }
)
"""Operators that take no more than the form of a tensor."""

COMPARING = frozenset({aten.equal, aten.allclose})
"""Operators that answer with a Python bool, of which the tracer says nothing."""

COPYING = frozenset({"tolist", "numpy", "__array__"})
"""Methods that hand values to Python without an operator that reads them."""

READING = frozenset({"__bool__", "__int__", "__float__", "__index__", "__complex__", "item", "is_nonzero"})
"""Methods that hand one value to Python; others that are not written in Python read for themselves."""

MEASURING = frozenset({"size", "numel", "nelement", "__len__", "unbind", "__iter__", "shape"})
"""Methods that hand a shape to Python, which tells something of the values where it depends on them."""


@dataclass
class Reads:
    """What Python read of values that come from the inputs.

    Attributes:
        seen: names of what read.
        silent: those of them of which the tracer says nothing.
    """

    seen: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)


def data_reads(run: Callable[[], T], inputs: tuple[Tensor, ...]) -> tuple[T, Reads]:
    """Run a forward pass, and record what Python reads of values that come from its inputs.

    A value comes from the inputs if any operator led from them to it; weights, constants and shapes don't.
    Storages are followed, so that views and changes in place count.

    Args:
        run: the forward pass on the inputs.
        inputs: what it takes.

    Example:
        >>> x = torch.ones(2)
        >>> sorted(data_reads(lambda: x * 2 if x.sum() > 1 else x, (x,))[1].seen)
        ['__bool__']
        >>> sorted(data_reads(lambda: x * 2 if x.shape[0] > 1 else x, (x,))[1].seen)
        []
    """
    reads = Reads()
    marks = _Marks(inputs, reads)
    with marks, _Calls(marks):
        output = run()
    return output, reads


class _Marks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Marks the storages of all that is computed from the inputs."""

    def __init__(self, inputs: tuple[Tensor, ...], reads: Reads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads = reads
        self.call: Any = None
        # Weak references keep an address from being used again, and no memory.
        self.values: dict[int, StorageWeakRef] = {}
        self.shapes: dict[int, StorageWeakRef] = {}
        self._mark(self.values, inputs)

    @staticmethod
    def _mark(marks: dict[int, StorageWeakRef], tensors: object) -> None:
        for storage in _storages(tensors):
            marks[storage._cdata] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]

    @staticmethod
    def is_marked(marks: dict[int, StorageWeakRef], tensors: object) -> bool:
        return any(storage._cdata in marks for storage in _storages(tensors))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = (args, kwargs or {})
        from_data, shaped = self.is_marked(self.values, given), self.is_marked(self.shapes, given)
        output = func(*args, **(kwargs or {}))
        operator = func.overloadpacket
        if not from_data or operator in VALUELESS:
            return output
        if operator in COMPARING:
            self.reads.seen.add(operator.__name__)
            self.reads.silent.add(operator.__name__)
        elif operator is aten._local_scalar_dense and not self._is_an_operators_own():
            self.reads.seen.add(_name(self.call) or "item")
        self._mark(self.values, output)
        if shaped or _shapes_by_value(func, args):
            self._mark(self.shapes, [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.dim()])
        return output

    def _is_an_operators_own(self) -> bool:
        """Tell whether an operator such as a slice up to a tensor reads; a trace holds it as a whole."""
        is_operator = self.call is not None and not isinstance(self.call, FunctionType)
        return is_operator and _name(self.call) not in READING


class _Calls(TorchFunctionMode):
    """Tells the marks which function of torch is at work, and sees those that are no operators."""

    def __init__(self, marks: _Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, marks = _name(func), self.marks
        copied = name in COPYING and marks.is_marked(marks.values, args)
        measured = name in MEASURING and marks.is_marked(marks.shapes, args)
        if copied or measured:
            marks.reads.seen.add(name)
        before, marks.call = marks.call, func
        try:
            return func(*args, **(kwargs or {}))
        finally:
            marks.call = before


def _name(func: Any) -> str:
    """Return a function's name, or that of the attribute which it gets."""
    name = getattr(func, "__name__", "")
    return getattr(func.__self__, "__name__", "") if name == "__get__" else name


def _storages(tensors: object) -> Iterator[torch.UntypedStorage]:
    for x in tree_leaves(tensors):
        if isinstance(x, Tensor):
            with suppress(RuntimeError, NotImplementedError):  # sparse and wrapped tensors have none
                yield x.untyped_storage()


def _shapes_by_value(func: Any, args: tuple[Any, ...]) -> bool:
    if func is aten.index.Tensor:
        return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    return torch.Tag.dynamic_output_shape in func.tags
