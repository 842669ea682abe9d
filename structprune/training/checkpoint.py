"""Where a training stands, and its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from structprune.errors import InputError, UsageError
from structprune.pruning.budget import Budget, Plan
from structprune.pruning.masks import Masks, masks_of
from structprune.report.data import Proof
from structprune.report.training import Epoch, Event
from structprune.training import sealed_file
from structprune.training.document import ROWS, check_fields, check_proofs
from structprune.training.identity import difference

StateDict = dict[str, Any]

AS_THEY_ARE = ("point", "optimiser", "answers", "within", "watched", "series", "cuts", "best", "seconds")
"""Fields of a state that a checkpoint takes as they are."""


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
        OutputError: it can't be written, or a file of that name is none of ours.
    """
    document = {
        "schema": sealed_file.SCHEMA,
        "fingerprint": dict(fingerprint),
        "model": state.model.state_dict(),
        "masked": sorted(state.masks),
        "plan": None if state.plan is None else _plan(state.plan),
        **{key: getattr(state, key) for key in AS_THEY_ARE},
        **{key: [asdict(row) for row in getattr(state, key)] for key in ROWS},
    }
    sealed_file.write(path, document)


def read(path: Path, fingerprint: Mapping[str, Any]) -> StateDict:
    """Read a checkpoint's document and check every field of it; nothing in it is executed.

    Args:
        path: of the file.
        fingerprint: of the training that is to go on.

    Raises:
        InputError: it is no checkpoint, or damaged.
        UsageError: it is one of another training.
        ProofFailedError: a proof in it failed.
    """
    document = sealed_file.read(path)
    check_proofs(document, path.name)
    check_fields(document, path.name)
    if (differing := difference(document["fingerprint"], fingerprint)) is not None:
        what, before, now = differing
        raise UsageError(
            f"{path.name} is of another training: its {what} was {before}, now {now}; "
            "give the options, the network and the data of that training, or another output"
        )
    return document


def restored(document: StateDict, model: nn.Module, plan: Plan | None, path: Path) -> State:
    """Return the state that a document holds.

    Args:
        document: from :func:`read`.
        model: a network of the form that was saved: shrunk or masked.
        plan: what it keeps of the dense groups.
        path: of the file, for the message.

    Raises:
        InputError: the document's weights are not those of the network.
    """
    check_state_dict(document["model"], model, f"{path.name} is damaged: its model")
    model.load_state_dict(document["model"])
    lists: dict[str, Any] = {key: [kind(**row) for row in document[key]] for key, kind in ROWS.items()}
    return State(model=model, plan=plan, **{key: document[key] for key in AS_THEY_ARE}, **lists)


def check_state_dict(stored: Mapping[str, Any], model: nn.Module, what: str) -> None:
    """Refuse tensors that are not, name by name, of the shapes and types of a network's.

    Raises:
        InputError: beginning with ``what``.
    """
    expected = {name: x for name, x in model.state_dict().items() if isinstance(x, Tensor)}
    stored = {name: x for name, x in stored.items() if isinstance(x, Tensor)}
    if names := sorted(expected.keys() ^ stored.keys()):
        raise InputError(f"{what} {'lacks' if names[0] in expected else 'has a strange'} {names[0]}")
    for name, x in expected.items():
        if (stored[name].shape, stored[name].dtype) != (x.shape, x.dtype):
            found = f"{stored[name].dtype} {list(stored[name].shape)}"
            raise InputError(f"{what} has {name} as {found}, expected {x.dtype} {list(x.shape)}")


def _plan(plan: Plan) -> StateDict:
    return {"keep": dict(plan.keep), "budget": asdict(plan.budget), "reached": plan.reached}


def plan_of(document: StateDict) -> Plan | None:
    """Return the plan that a document holds, or None."""
    found = document["plan"]
    if found is None:
        return None
    return Plan(found["keep"], Budget(**found["budget"]), found["reached"])
