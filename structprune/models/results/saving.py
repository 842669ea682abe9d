"""A cut network's weights and plan, as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from structprune.errors import InputError
from structprune.models.architecture import Architecture
from structprune.models.results.plan_file import PLAN, Kept, PlanFile, TensorEntry, to_json
from structprune.models.results.rebuild import DTYPES, WEIGHTS, checksum
from structprune.models.results.sealing import entry
from structprune.models.results.staging import translated
from structprune.models.widths import Widths, counted_in, widths_of
from structprune.pruning.budget import Plan

SPELLING = {dtype: name for name, dtype in DTYPES.items()}


def save_weights_and_plan(
    folder: Path,
    model: nn.Module,
    plan: Plan,
    architecture: Architecture | None,
    input_shape: Sequence[int],
    *,
    dense_widths: Widths,
    name: str = "",
) -> None:
    """Write ``model.safetensors`` and ``plan.json``.

    Args:
        folder: an existing folder, mostly one of :func:`~structprune.models.results.staged_folder`.
        model: the cut network.
        plan: what was kept.
        architecture: what builds the unpruned network, or None for one of the user's own.
        input_shape: of one input, (C, H, W).
        dense_widths: ``widths_of(network)`` before the cut, with all numbers that the cut made smaller.
        name: of the network, for reports; no path.

    Raises:
        OutputError: the folder can't be written, or the disk is full.
    """
    from safetensors.torch import save_file

    tensors, aliases = _unshared(model)
    stored = PlanFile(
        architecture=architecture,
        name=name,
        input_shape=tuple(input_shape),
        remove=plan.budget.remove,
        unit=plan.budget.unit,
        floor=plan.budget.floor,
        align=plan.budget.align,
        reached=plan.reached,
        gates={gate: _kept(keep_C) for gate, keep_C in plan.keep.items()},
        widths=widths_of(model, counted_in(dense_widths, model)),
        dense_widths=dense_widths,
        tensors={key: _entry(key, tensor) for key, tensor in tensors.items()},
        aliases=aliases,
    )
    with translated(folder):
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        stored = replace(stored, files={WEIGHTS: entry(folder / WEIGHTS)})
        (folder / PLAN).write_text(to_json(stored), encoding="utf-8")


def _kept(keep_C: Tensor) -> Kept:
    indices: list[int] = keep_C.nonzero().flatten().tolist()
    return Kept(tuple(indices), keep_C.numel())


def _entry(key: str, tensor: Tensor) -> TensorEntry:
    if tensor.dtype not in SPELLING:
        number, *numbers = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, *SPELLING))
        raise InputError(f"{key} holds {number} numbers; a result folder can hold {', '.join(numbers)}")
    return TensorEntry(SPELLING[tensor.dtype], tuple(tensor.shape), checksum(tensor))


def _unshared(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict with each shared tensor once, and name -> name for the others.

    A tensor that is a view of a larger one gets memory of its own, as safetensors wants it.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in model.state_dict().items():
        place = (
            (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.device) if tensor.numel() else (name,)
        )
        owner = first.setdefault(place, name)
        if owner == name:
            tensors[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        else:
            aliases[name] = owner
    return tensors, aliases
