"""A training back from its checkpoint: every part of it held against the session before it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from structprune.errors import InputError
from structprune.nn.layers import weighted_layers
from structprune.pruning.masks import Masks, masked
from structprune.training import checkpoint as files
from structprune.training.checkpoint import State, StateDict, check_state_dict
from structprune.training.detectors.detector import Detector
from structprune.training.document import check_story, fits
from structprune.training.pruning_step import Cutter
from structprune.training.session import Session

MOVING = ("lr", "betas")
"""What a schedule changes in an optimiser's groups; all else stays as the recipe has it."""

MOMENTS: Mapping[bool, frozenset[str]] = {
    True: frozenset(("step", "exp_avg", "exp_avg_sq")),
    False: frozenset(("momentum_buffer",)),
}
"""What Adam (True) and SGD remember of a parameter."""


def resumed(session: Session, cutter: Cutter, fingerprint: Mapping[str, Any]) -> State | None:
    """Read where a training stopped, or return None where there is no checkpoint.

    Raises:
        InputError: it is no checkpoint, or damaged.
        UsageError: it is one of another training.
        ProofFailedError: a proof in it failed.
    """
    path = session.checkpoint
    if path is None or not path.is_file():
        return None
    document = files.read(path, fingerprint)
    check_story(document, session.program(), path.name)
    _check_form(document, cutter, path.name)
    _check_memory(document, session, path.name)
    plan = files.plan_of(document)
    form = masked(cutter.rebuilt(plan), _open_masks(session.model, document["masked"]))
    return files.restored(document, session.laid_out(form.to(session.device)), plan, path)


def _check_form(document: StateDict, cutter: Cutter, name: str) -> None:
    """Hold what was cut, and the point to rewind to, against the dense network."""
    session, gates = cutter.session, cutter.session.method.gates
    there = {"channels": "plan", "weights": "masked"}.get(gates) if document["cuts"] else None
    for field in ("plan", "masked"):
        if bool(document[field]) != (field == there):
            state = "lacks" if field == there else "has"
            raise InputError(f"{name} is damaged: after {document['cuts']} cuts it {state} its {field}")
    if document["plan"]:
        _check_plan(document["plan"]["keep"], cutter, name)
    weights = {f"{layer}.weight" for layer, _ in weighted_layers(session.model)}
    if strange := sorted(set(document["masked"]) - weights):
        raise InputError(f"{name} is damaged: it masks {strange[0]}, which the network has not")
    if document["point"] is not None:
        check_state_dict(document["point"], session.model, f"{name} is damaged: its point")


def _check_plan(keep: Mapping[str, Tensor], cutter: Cutter, name: str) -> None:
    sizes = {group.name: group.size for group in cutter.groups or ()}
    for group in sorted(keep.keys() | sizes.keys()):
        found = len(keep[group]) if group in keep else None
        if found != sizes.get(group):
            raise InputError(
                f"{name} is damaged: its plan has {found} channels of the group {group}, "
                f"and the network {sizes.get(group)}"
            )


def _check_memory(document: StateDict, session: Session, name: str) -> None:
    """Hold what a detector remembers against what it would begin with."""
    detector, watched = session.detector(), document["watched"]
    if (watched is not None) != bool(document["series"]):
        raise InputError(f"{name} is damaged: its watched and its series tell of different epochs")
    if watched is not None and (detector is None or not _remembers(detector, watched, session.model)):
        raise InputError(f"{name} is damaged: its watched is not what the detector remembers")


def _remembers(detector: Detector, watched: Mapping[str, Tensor], dense: nn.Module) -> bool:
    first = detector.start(dense)
    if first and first.keys() != watched.keys():
        return False
    expected = first or dict(dense.named_parameters())  # a reference that is taken later
    return all(_alike(x, expected[name]) for name, x in watched.items() if name in expected)


def _alike(x: Tensor, expected: Tensor) -> bool:
    grows = expected.dim() > 0 and len(expected) == 0
    shapes = (x.shape[1:], expected.shape[1:]) if grows else (x.shape, expected.shape)
    return x.dtype == expected.dtype and x.dim() == expected.dim() and shapes[0] == shapes[1]


def _open_masks(dense: nn.Module, names: list[str]) -> Masks:
    """Masks that are still to be loaded."""
    return {name: torch.ones_like(dense.get_parameter(name), dtype=torch.bool) for name in names}


def load_optimiser(chosen: Optimizer, stored: StateDict, path: Path | None) -> None:
    """Put an optimiser where it was.

    Args:
        chosen: a new one of the same parameters.
        stored: its state dict.
        path: of the file that this was in, if it was.

    Raises:
        InputError: it is the state of another optimiser.
    """
    if (wrong := _other_state(chosen, stored)) is not None:
        raise InputError(f"{path.name if path else 'the state'} is damaged: its optimiser has {wrong}")
    chosen.load_state_dict(stored)


def _other_state(chosen: Optimizer, stored: StateDict) -> str | None:
    expected = chosen.state_dict()["param_groups"]
    if len(expected) != len(stored["param_groups"]):
        return f"{len(stored['param_groups'])} groups, expected {len(expected)}"
    for group, own in zip(stored["param_groups"], expected, strict=True):
        if group.keys() != own.keys():
            return f"groups of {', '.join(map(str, group))}"
        for key, value in own.items():
            if not (_moved(group[key], value) if key in MOVING else group[key] == value):
                return f"{key} {group[key]}, expected {value}"
    parameters = [x for group in chosen.param_groups for x in group["params"]]
    for number, row in stored["state"].items():
        if number >= len(parameters) or not _moments_fit(chosen, row, parameters[number]):
            return f"no moments of parameter {number} of {len(parameters)}"
    return None


def _moved(value: Any, like: Any) -> bool:
    if isinstance(like, tuple):
        return isinstance(value, tuple) and len(value) == len(like) and all(fits(x, float) for x in value)
    return fits(value, float)


def _moments_fit(chosen: Optimizer, row: Mapping[str, Any], parameter: Tensor) -> bool:
    return row.keys() == MOMENTS[isinstance(chosen, Adam)] and all(
        isinstance(x, Tensor)
        and x.is_floating_point()
        and x.shape == (torch.Size() if name == "step" else parameter.shape)
        for name, x in row.items()
    )
