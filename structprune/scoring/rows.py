"""Whether mini-batches can be scored side by side in one pass, and where in a layer's input samples lie.

A pass over several mini-batches gives each its own derivatives where every gate has a row for each, and the
samples of each meet their own row only. That takes a network whose samples know nothing of each other, and
gates on inputs in which the samples lie one after the other along one axis. Both are looked at and not
assumed: what every gated layer reads in a pass over two halves must be what it reads of each, end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from structprune.nn.batch_norm import evaluating
from structprune.pruning.gates import GatedModel
from structprune.scoring.sampling import Batch, Sampling, split_rows

# Peak memory of |H g| is 4 to 6 times what a forward pass keeps; a pass is to stay near so many bytes.
_BYTES_PER_PASS = 1.6e9
_BYTES_PER_KEPT_BYTE = 5.5
_MOST = 64  # more samples in a pass are no faster

HALF = 2
"""Samples of each of the two parts that are compared."""

Reads = dict[str, list[Tensor]]
"""Layer -> what it reads, call by call."""


def in_rows(gated: GatedModel, sampling: Sampling) -> GatedModel:
    """Return the gated network with the axes of the samples where its mini-batches can be told apart.

    Args:
        gated: a network with gates.
        sampling: what it is scored on.

    Returns:
        The same with ``axes``; as it is where gates multiply weights, where there is no second mini-batch or
        statistics are those of each, and where samples know of each other.
    """
    parts = _parts(sampling)
    if gated.weight_scales or not gated.input_scales or parts is None:
        return gated
    try:
        axes = _axes(gated, sampling, parts)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):  # it takes one of them alone
        return gated
    return gated if axes is None else replace(gated, axes=axes)


def _parts(sampling: Sampling) -> tuple[Batch, Batch] | None:
    """Return a few samples of each of two mini-batches, or None where there is nothing to put together."""
    first, *others = sampling.batches
    if sampling.batch_norm == "batch" or not others:
        return None
    a, b = (next(batch.chunks(HALF)) for batch in (first, others[0]))
    alike = [x.shape for x in a.inputs] == [x.shape for x in b.inputs]
    return (a, b) if alike else None


def _axes(gated: GatedModel, sampling: Sampling, parts: tuple[Batch, Batch]) -> dict[str, int] | None:
    joined = tuple(torch.cat(column) for column in zip(*(part.inputs for part in parts), strict=True))
    passes = [*(part.inputs for part in parts), joined]
    with torch.no_grad(), evaluating(gated.model):
        (a, out_a), (b, out_b), (both, out) = (_read(gated, sampling, inputs) for inputs in passes)
    ends = [tree_leaves(x) for x in split_rows(out, len(parts))]
    alone = [*tree_leaves(out_a), *tree_leaves(out_b)]
    if not all(_is_same(x, y) for x, y in zip(alone, [*ends[0], *ends[1]], strict=True)):
        return None
    axes = {name: _axis(a.get(name, []), b.get(name, []), both.get(name, [])) for name in gated.input_scales}
    known = {name: axis for name, axis in axes.items() if axis is not None}
    return known if len(known) == len(axes) else None


def _read(gated: GatedModel, sampling: Sampling, inputs: tuple[Tensor, ...]) -> tuple[Reads, Any]:
    """Run the network, and return what its gated layers read and what came out."""
    reads: Reads = {}

    def noting(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            reads.setdefault(name, []).append(args[0] if args else kwargs["input"])

        return note

    modules = dict(gated.model.named_modules())
    handles = [
        modules[name].register_forward_pre_hook(noting(name), with_kwargs=True) for name in gated.input_scales
    ]
    try:
        return reads, sampling.run(gated, gated.ones(requires_grad=False), inputs)
    finally:
        for handle in handles:
            handle.remove()


def _axis(a: Sequence[Tensor], b: Sequence[Tensor], both: Sequence[Tensor]) -> int | None:
    """Return the axis along which, in every call, both are read as each is alone, end to end."""
    if not len(a) == len(b) == len(both):
        return None
    found = {_axis_of_call(*call) for call in zip(a, b, both, strict=True)}
    return found.pop() if len(found) == 1 else 0 if not found else None


def _axis_of_call(a: Tensor, b: Tensor, both: Tensor) -> int | None:
    if a.shape != b.shape or a.dim() != both.dim():
        return None
    longer = [axis for axis in range(a.dim()) if a.shape[axis] != both.shape[axis]]
    if len(longer) != 1 or both.shape[longer[0]] != 2 * a.shape[longer[0]]:
        return None
    return longer[0] if _is_same(torch.cat([a, b], longer[0]), both) else None


def _is_same(a: Any, b: Any) -> bool:
    """Tell whether two tensors, or whatever else came out, are the same but for rounding."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return bool(a == b)
    if a.shape != b.shape or not a.is_floating_point():
        return torch.equal(a, b)
    within = torch.finfo(a.dtype).eps ** 0.5 * float(b.abs().max()) if b.numel() else 0.0
    return bool(((a - b).abs() <= within).all())


def fitting_rows(gated: GatedModel, sampling: Sampling) -> int:
    """Return how many samples a pass takes that takes mini-batches side by side, the same everywhere."""
    fitting = int(_BYTES_PER_PASS / (_BYTES_PER_KEPT_BYTE * kept_bytes(gated, sampling)))
    return max(sampling.chunk, min(fitting, _MOST))


def kept_bytes(gated: GatedModel, sampling: Sampling) -> float:
    """Return the bytes per sample that a forward pass keeps for derivatives with respect to the gates."""
    first = sampling.batches[0]
    few, more = (tuple(x[:count] for x in first.inputs) for count in (1, 2))
    with evaluating(gated.model):
        return max(1.0, float(_kept(gated, sampling, more) - _kept(gated, sampling, few)))


def _kept(gated: GatedModel, sampling: Sampling, inputs: tuple[Tensor, ...]) -> int:
    sizes: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        output = sampling.run(gated, gated.ones(), inputs)
        del output
    return sum(sizes.values())
