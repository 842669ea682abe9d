"""Tensors and modules from a file: whether they hold values that a network can compute with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from structprune.errors import InputError
from structprune.files import counted, largest_unpacked, shown

EXPANDED = 1 << 26
"""Bytes that tensors may take beyond their storages: a value may be repeated, but not for gigabytes."""

DEEPEST = 200
"""Levels of modules in modules. Python's own limit, at three calls a level, is near 300."""

READABLE = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
        *(torch.uint16, torch.uint32, torch.uint64),
    }
)
"""Types whose entries are values; those of quantised and packed types need scales kept elsewhere."""

INTEGERS = frozenset(
    {
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.bool),
        *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    }
)

SAFETENSORS_TYPES = frozenset(
    {
        *("F64", "F32", "F16", "BF16", "C64"),
        *("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"),
    }
)
"""The same, as safetensors spells them."""

GIVE = "give the weights in float32, float16 or bfloat16"

ODD: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        is_lazy,
        "of a lazy layer that was never run, and has no shape; run the network before it is saved",
    ),
    (lambda x: x.is_meta, "on the meta device, where it has no values; load the weights before saving them"),
    (lambda x: x.is_nested, "a nested tensor; expected dense ones"),
    (lambda x: x.layout is not torch.strided, "a sparse tensor; save its to_dense()"),
    (lambda x: x.is_quantized, f"quantised; {GIVE}"),
    (is_traceable_wrapper_subclass, "made of other tensors, which it packs or shards; save plain ones"),
)
"""What a tensor of a network can't be, and what to say of it."""


def check_kinds(state: Mapping[str, Tensor], name: str) -> None:
    """Refuse tensors without plain values; no value is looked at.

    Args:
        state: name -> tensor.
        name: of the file, for messages.

    Raises:
        InputError: naming the first.
    """
    beyond = 0
    for key, tensor in state.items():
        if reason := next((words for is_odd, words in ODD if is_odd(tensor)), None):
            raise InputError(f"{name}: {shown(key)} is {reason}")
        if tensor.dtype not in READABLE:
            raise InputError(stored_as(name, key, str(tensor.dtype).removeprefix("torch.")))
        taken, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        beyond += max(taken - stored, 0)
        if beyond > EXPANDED:
            raise InputError(
                f"{name}: {shown(key)} of shape {list(tensor.shape)} would take {counted(taken)}, and the "
                f"file holds {counted(stored)} of it, repeated; save its contiguous()"
            )


def check_memory(tensors: Iterable[Tensor], path: Path) -> None:
    """Refuse tensors that take more memory than a file of that size unpacks to.

    Raises:
        InputError: saying how much.
    """
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    total, most = sum(storages.values()), largest_unpacked(path)
    if total > most:
        raise InputError(
            f"{path.name} claims tensors of {counted(total)}; files of its size hold {counted(most)} at most"
        )


def check_finite(state: Mapping[str, Tensor], name: str) -> None:
    """Refuse values that are no numbers.

    Raises:
        InputError: naming the tensor, and how many.
    """
    for key, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(f"{name}: {bad} of {tensor.numel()} values of {shown(key)} are NaN or infinite")


def stored_as(name: str, key: str, kind: str) -> str:
    """Sentence on a type whose entries are no values by themselves."""
    return f"{name}: {shown(key)} is stored as {kind}, whose values need scales kept elsewhere; {GIVE}"


def is_weight(tensor: Tensor) -> bool:
    """Whether a tensor may be a weight: it is no single number, and its entries are no integers."""
    return is_lazy(tensor) or (tensor.dim() > 0 and tensor.dtype not in INTEGERS)


def check_network(model: nn.Module, name: str) -> None:
    """Refuse a network whose modules or tensors are not what torch can walk and compute with.

    Args:
        model: the network.
        name: of the file or the factory, for messages.

    Raises:
        InputError: naming what is wrong.
    """
    check_tree(model, name)
    check_kinds({**dict(model.named_parameters()), **dict(model.named_buffers())}, name)


def check_tree(model: nn.Module, name: str) -> None:
    """Refuse a module that holds itself, or modules in modules beyond what torch can walk.

    Args:
        model: the network.
        name: of the file or the factory, for messages.

    Raises:
        InputError: naming the module's class.
    """
    path, waiting, done = {model: None}, [iter(model.children())], set[nn.Module]()
    while waiting:
        child = next(waiting[-1], None)
        if child is None:
            waiting.pop()
            done.add(path.popitem()[0])
        elif child in path:
            raise InputError(f"{name}: a {type(child).__name__} holds itself, directly or in what it holds")
        elif len(path) >= DEEPEST:
            raise InputError(f"{name}: its modules nest more than {DEEPEST} levels deep")
        elif child not in done:
            path[child] = None
            waiting.append(iter(child.children()))


WRAPPERS = (
    nn.DataParallel,
    nn.parallel.DistributedDataParallel,
    torch.optim.swa_utils.AveragedModel,
)


def inner_network(model: nn.Module) -> nn.Module:
    """The network inside of what trains it in parallel, averages it or compiled it."""
    for _ in range(DEEPEST):
        held = getattr(model, "_orig_mod", None)
        if not isinstance(held, nn.Module) and isinstance(model, WRAPPERS):
            held = model.module
        if not isinstance(held, nn.Module):
            break
        model = held
    return model
