"""A cut network back from its result folder: no pickle, no dependency graph, no import that the folder names.

The order is the point. The plan is read and checked; the unpruned network is built without memory; every
width, name, shape and type is held against it and against the header of the weights file; and only then are
tensors read, each against its checksum.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from structprune.errors import InputError
from structprune.files import check_regular
from structprune.models.architecture import build, build_on_meta
from structprune.models.results.plan_file import PLAN, Kept, PlanFile, read_plan
from structprune.models.widths import Width, Widths, counted_in, set_widths, shapes_implied, widths_of
from structprune.nn.attention import fit_heads
from structprune.nn.folding import folded

WEIGHTS = "model.safetensors"

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}

__all__ = ["DTYPES", "PLAN", "WEIGHTS", "checksum", "read_plan", "rebuild"]


def rebuild(
    folder: Path, plan: PlanFile, model: nn.Module | None = None, *, trust_factory: bool = False
) -> nn.Module:
    """Build the cut network that a result folder holds.

    Args:
        folder: the result folder.
        plan: what its plan says.
        model: the unpruned network, where it is the user's own; it is copied.
        trust_factory: whether a factory that the plan names may be imported and called.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        UnsafeCheckpointError: the plan names code that is no registry's.
        InputError: plan, network and weights do not agree; the message names the first disagreement.
    """
    skeleton = _skeleton(plan, model, trust_factory)
    check_widths(plan, skeleton)
    check_tensors(plan, skeleton)
    check_header(plan, folder / WEIGHTS)
    cut = _with_memory(plan, skeleton, model, trust_factory)
    set_widths(cut, plan.widths)
    _set_tensors(cut, _read_tensors(plan, folder / WEIGHTS), plan.aliases)
    return fit_heads(cut).eval()


def _skeleton(plan: PlanFile, model: nn.Module | None, trust_factory: bool) -> nn.Module:
    if model is not None:
        return _as_cut(plan, model)
    if plan.architecture is None:
        raise InputError(
            "this result was cut from a network of your own, which no registry can build;"
            " give it as load(folder, model=...), unpruned"
        )
    return _as_cut(plan, build_on_meta(plan.architecture, trust_factory=trust_factory))


def _as_cut(plan: PlanFile, model: nn.Module) -> nn.Module:
    """Fold reparametrised weights, as before the cut, where the plan doesn't hold what makes them."""
    stored = {*plan.tensors, *plan.aliases}
    return model if stored >= set(model.state_dict()) else folded(model).model


def _with_memory(
    plan: PlanFile, skeleton: nn.Module, model: nn.Module | None, trust_factory: bool
) -> nn.Module:
    """A network of our own to fill: all that the weights file does not hold must have values already."""
    if model is not None:
        return copy.deepcopy(skeleton).cpu()
    stored = set(skeleton.state_dict())
    if plan.architecture is None or not any(
        buffer.is_meta for name, buffer in skeleton.named_buffers() if name not in stored
    ):
        return skeleton
    with torch.random.fork_rng(devices=[]):
        return _as_cut(plan, build(plan.architecture, trust_factory=trust_factory))


# Checks, before anything is allocated ---------------------------------------------------------------------


def check_widths(plan: PlanFile, dense: nn.Module) -> None:
    """Hold the plan's widths against the unpruned network's.

    Raises:
        InputError: a layer or an attribute is missing or unknown, or a width is larger than before the cut.
    """
    full = widths_of(dense, counted_in(plan.dense_widths, dense))
    for title, smaller, larger in (
        ("dense width", plan.dense_widths, full),
        ("width", plan.widths, plan.dense_widths),
    ):
        _same_names(title, smaller, larger)
        for layer, attributes in smaller.items():
            for name, width in attributes.items():
                if not _within(width, larger[layer][name]):
                    raise InputError(
                        f"{PLAN}: the {title} {layer}.{name} is {_shown(width)},"
                        f" and there were only {_shown(larger[layer][name])} before"
                    )
    for layer, attributes in plan.widths.items():
        _check_groups(layer, attributes)
    for gate, kept in plan.gates.items():
        _check_gate(gate, kept, plan)


WRITTEN = ("out_channels", "out_features", "nf", "hidden_size", "embed_dim")
"""Attributes that say how many channels a layer writes."""


def _check_gate(gate: str, kept: Kept, plan: PlanFile) -> None:
    """A gate is named after a layer that writes its channels, whose width is what it keeps.

    Where it has fewer channels than the layer, one of its own may be several of the layer's, as a head is,
    or others of the layer's belong to other gates; then it is only held to have no more.
    """
    layer = gate.partition("[")[0]
    before, after = (_written(widths.get(layer, {})) for widths in (plan.dense_widths, plan.widths))
    if before is None or after is None:
        raise InputError(f"{PLAN}: the gate {gate} is of no layer of the network")
    whole = kept.size == before and layer == gate
    for what, count, width in (("size", kept.size, before), ("kept", len(kept.indices), after)):
        if count > width or (whole and count != width):
            raise InputError(f"{PLAN}: the {what} of gate {gate} is {count}, and the layer's width {width}")


def _written(attributes: Mapping[str, Width]) -> int | None:
    return next((width for name in WRITTEN if isinstance(width := attributes.get(name), int)), None)


def _check_groups(layer: str, attributes: Mapping[str, Width]) -> None:
    groups = attributes.get("groups", 1)
    for name in ("in_channels", "out_channels"):
        width = attributes.get(name, groups)
        if isinstance(width, int) and isinstance(groups, int) and width % groups:
            raise InputError(
                f"{PLAN}: {layer}.{name} is {width}, which its {groups} groups can't share evenly"
            )


def _same_names(title: str, smaller: Widths, larger: Widths) -> None:
    here = {(layer, name) for layer, names in smaller.items() for name in names}
    there = {(layer, name) for layer, names in larger.items() for name in names}
    if strange := sorted(here - there):
        raise InputError(f"{PLAN}: the {title} {'.'.join(strange[0])} is of no layer of the network")
    if missing := sorted(there - here):
        raise InputError(f"{PLAN}: the {title} {'.'.join(missing[0])} is missing")


def _within(width: Width, limit: Width) -> bool:
    if isinstance(width, tuple) and isinstance(limit, tuple):
        return len(width) == len(limit) and all(w <= most for w, most in zip(width, limit, strict=True))
    return isinstance(width, int) and isinstance(limit, int) and width <= limit


def _shown(width: Width) -> str:
    return str(list(width)) if isinstance(width, tuple) else str(width)


def check_tensors(plan: PlanFile, dense: nn.Module) -> None:
    """Hold the plan's tensors against the network's names and types, and their shapes against its widths.

    Raises:
        InputError: a tensor is missing, unknown, or of a shape or type that the network can't have.
    """
    state = dense.state_dict()
    _same_tensors(set(plan.tensors) | set(plan.aliases), set(state), "the network")
    exact = _exact_shapes(plan, dense)
    for name, tensor in state.items():
        entry = plan.tensors.get(plan.aliases.get(name, name))
        if entry is None:
            raise InputError(f"{PLAN}: {name} shares the tensor {plan.aliases[name]}, which is not there")
        limit = exact.get(name, tuple(tensor.shape))
        fits = entry.shape == limit if name in exact else _within(entry.shape, limit)
        if not fits:
            raise InputError(
                f"{PLAN}: {name} is {list(entry.shape)}, and the layer's widths make it {list(limit)}"
            )
        _check_dtype(name, entry.dtype, tensor.dtype)


def _exact_shapes(plan: PlanFile, dense: nn.Module) -> Mapping[str, tuple[int, ...]]:
    """Shapes that widths determine; other tensors may only be no larger than before."""
    return {
        f"{layer}.{name}" if layer else name: shape
        for layer, widths in plan.widths.items()
        for name, shape in shapes_implied(dense.get_submodule(layer), widths).items()
    }


def _check_dtype(name: str, stored: str, expected: torch.dtype) -> None:
    dtype = DTYPES.get(stored)
    both_float = dtype is not None and dtype.is_floating_point and expected.is_floating_point
    if dtype is not expected and not both_float:
        raise InputError(f"{PLAN}: {name} is of type {stored}, the network has {expected}")


def check_header(plan: PlanFile, weights: Path) -> None:
    """Hold the header of the weights file against the plan; no tensor is read.

    Raises:
        InputError: the file is damaged, or a tensor is missing, unknown, or of another shape or type.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(weights)
    try:
        with safe_open(weights, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{WEIGHTS} can't be read: {error}") from error
    _same_tensors(set(found), set(plan.tensors), PLAN)
    for name, entry in plan.tensors.items():
        if found[name] != (entry.dtype, entry.shape):
            dtype, shape = found[name]
            raise InputError(
                f"{WEIGHTS}: {name} is {dtype} {list(shape)},"
                f" and {PLAN} says {entry.dtype} {list(entry.shape)}"
            )


def _same_tensors(found: set[str], expected: set[str], where: str) -> None:
    if missing := sorted(expected - found):
        raise InputError(f"the tensor {missing[0]}, which {where} has, is missing from the result folder")
    if strange := sorted(found - expected):
        raise InputError(f"the tensor {strange[0]} of the result folder is unknown to {where}")


# Filling --------------------------------------------------------------------------------------------------


def checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes in memory order."""
    bytes_N = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return zlib.crc32(bytes_N.numpy().data)


def _read_tensors(plan: PlanFile, weights: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    # Copies, since the file's alignment is not torch's and rounding depends on it.
    tensors: dict[str, Tensor] = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    for name, entry in plan.tensors.items():
        if checksum(tensors[name]) != entry.crc32:
            raise InputError(
                f"{WEIGHTS}: {name} is not the tensor that was saved with {PLAN}: swapped or altered"
            )
    return tensors


def _set_tensors(model: nn.Module, tensors: Mapping[str, Tensor], aliases: Mapping[str, str]) -> None:
    """Put tensors in place by name; names that shared one before share it again."""
    made: dict[str, nn.Parameter] = {}
    for name in list(model.state_dict()):
        target = aliases.get(name, name)
        layer, _, attribute = name.rpartition(".")
        module = model.get_submodule(layer)
        old = getattr(module, attribute)
        if isinstance(old, nn.Parameter):
            parameter = nn.Parameter(tensors[target], requires_grad=old.requires_grad)
            setattr(module, attribute, made.setdefault(target, parameter))
        else:
            setattr(module, attribute, tensors[target])
