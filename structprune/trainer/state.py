"""Where a training stands, and its file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from structprune.budget import Budget, Plan
from structprune.errors import InputError, OutputError, UsageError
from structprune.masks import Masks, masks_of
from structprune.report import Epoch, Event, Proof

SCHEMA = 1
StateDict = dict[str, Any]


@dataclass
class State:
    """Where a training stands.

    Attributes:
        model: the network as it is now: plain, shrunk or masked.
        plan: what it keeps of the dense groups, or None.
        point: dense weights to rewind to, or None.
        optimiser: the state of the optimiser that goes on, or None for a new one.
        answers: what each step that is done answered.
        within: epochs done of the step that is not.
        watched: the detector's memory, or None before it starts.
        series: what the detector saw.
        cuts: how many there were.
        log: one entry an epoch.
        events: what happened between epochs.
        proofs: of every cut.
        best: (validation accuracy, epoch) so far, or None.
        seconds: spent before the last checkpoint.
    """

    model: nn.Module
    plan: Plan | None = None
    point: StateDict | None = None
    optimiser: StateDict | None = None
    answers: list[bool | None] = field(default_factory=list)
    within: int = 0
    watched: dict[str, Tensor] | None = None
    series: list[float] = field(default_factory=list)
    cuts: int = 0
    log: list[Epoch] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    proofs: list[Proof] = field(default_factory=list)
    best: tuple[float, int] | None = None
    seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.log)

    @property
    def masks(self) -> Masks:
        """What the network keeps of its weights; empty where nothing is masked."""
        return masks_of(self.model)


def save(state: State, fingerprint: Mapping[str, Any], path: Path) -> None:
    """Write where a training stands, so that a kill at any moment leaves the old or the new file whole.

    Raises:
        OutputError: it can't be written.
    """
    document = {
        "schema": SCHEMA,
        "fingerprint": dict(fingerprint),
        "model": state.model.state_dict(),
        "masked": sorted(state.masks),
        "plan": None if state.plan is None else _plan(state.plan),
        **{key: getattr(state, key) for key in ("point", "optimiser", "answers", "within", "watched")},
        **{key: getattr(state, key) for key in ("series", "cuts", "best", "seconds")},
        **{key: [asdict(row) for row in getattr(state, key)] for key in ("log", "events", "proofs")},
    }
    draft = path.with_suffix(".draft")
    try:
        with draft.open("wb") as file:
            torch.save(document, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except (OSError, RuntimeError) as error:
        draft.unlink(missing_ok=True)
        raise OutputError(f"the checkpoint {path.name} can't be written: {error}") from error


def read(path: Path, fingerprint: Mapping[str, Any]) -> StateDict:
    """Read a checkpoint's document; nothing in it is executed.

    Raises:
        InputError: it is no checkpoint.
        UsageError: it is one of another training.
    """
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path.name} is no checkpoint of a training: {reason}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError(f"{path.name} is no checkpoint of a training by this version")
    saved = document["fingerprint"]
    differing = [key for key, value in fingerprint.items() if saved.get(key) != value]
    if differing:
        key = differing[0]
        raise UsageError(
            f"{path.name} is of another training: its {key} was {saved.get(key)}, now {fingerprint[key]}; "
            "give the options of that training, or another output"
        )
    return document


def restored(document: StateDict, model: nn.Module, plan: Plan | None) -> State:
    """Return the state that a document holds.

    Args:
        document: from :func:`read`.
        model: a network of the form that was saved: shrunk or masked.
        plan: what it keeps of the dense groups.
    """
    model.load_state_dict(document["model"])
    rows = {"log": Epoch, "events": Event, "proofs": Proof}
    lists: dict[str, Any] = {key: [kind(**row) for row in document[key]] for key, kind in rows.items()}
    same = ("point", "optimiser", "answers", "within", "watched", "series", "cuts", "best", "seconds")
    return State(model=model, plan=plan, **{key: document[key] for key in same}, **lists)


def _plan(plan: Plan) -> StateDict:
    return {"keep": dict(plan.keep), "budget": asdict(plan.budget), "reached": plan.reached}


def plan_of(document: StateDict) -> Plan | None:
    """Return the plan that a document holds, or None."""
    found = document["plan"]
    if found is None:
        return None
    return Plan(found["keep"], Budget(**found["budget"]), found["reached"])
