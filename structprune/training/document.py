"""What a checkpoint says, checked field by field before anything is made of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from structprune.errors import InputError, ProofFailedError, UsageError
from structprune.pruning.budget import Budget
from structprune.report.data import Proof
from structprune.report.training import Epoch, Event
from structprune.training import schedules

Document = dict[str, Any]
Check = Callable[[Any], bool]

PLAIN = (bool, int, float, str, NoneType)
EVENTS = ("cut", "rewound", "remembered")
ROWS: Mapping[str, type] = {"log": Epoch, "events": Event, "proofs": Proof}


def check_fields(document: Document, name: str) -> None:
    """Refuse a document that lacks a field, or has one of another type or out of bounds.

    Args:
        document: as it was read.
        name: of its file, for the message.

    Raises:
        InputError: naming the file and the field.
    """
    if missing := [field for field in FIELDS if field not in document]:
        raise InputError(f"{name} is damaged: it lacks the field {missing[0]!r}")
    if strange := sorted(map(str, document.keys() - FIELDS.keys() - {"schema"})):
        raise InputError(f"{name} is damaged: nobody knows its field {strange[0]!r}")
    for field, (fits, expected) in FIELDS.items():
        if not fits(document[field]):
            raise InputError(
                f"{name} is damaged: its {field} is {_shown(document[field])}, expected {expected}"
            )


def check_proofs(document: Document, name: str) -> None:
    """Refuse a document with a proof that failed.

    Raises:
        ProofFailedError: naming the file and the proof.
    """
    rows = document.get("proofs")
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("passed") is False:
            raise ProofFailedError(
                f"{name} holds a network whose proof {row.get('name')} failed: error {row.get('error')} "
                f"(allowed {row.get('tolerance')}); {row.get('how')}"
            )


def check_story(document: Document, program: schedules.Steps, name: str) -> None:
    """Hold what a document counts against the steps that its answers say were done.

    Args:
        document: with fields of the right types.
        program: the training's steps, from the first.
        name: of its file, for the message.

    Raises:
        InputError: naming the file and what does not fit.
    """
    try:
        told = dict(_told(document, program))
    except UsageError as error:
        raise InputError(f"{name} is damaged: its answers are not those of this training") from error
    for what, (stored, expected) in told.items():
        if stored != expected:
            raise InputError(f"{name} is damaged: of its {what} it says {stored}, its steps say {expected}")


def _told(document: Document, program: schedules.Steps) -> Iterator[tuple[str, tuple[Any, Any]]]:
    done = list(_replayed(program, document["answers"], document["within"]))
    trains = [(step, count) for step, count in done if isinstance(step, schedules.Train)]
    names = {schedules.Cut: "cut", schedules.Rewind: "rewound", schedules.Remember: "remembered"}
    events = [names[type(step)] for step, _ in done if not isinstance(step, schedules.Train)]
    epochs, events_told = [row["number"] for row in document["log"]], document["events"]
    yield "epochs", (epochs, list(range(1, sum(count for _, count in trains) + 1)))
    yield "events", ([row["what"] for row in events_told], events)
    yield "cuts", (document["cuts"], events.count("cut"))
    yield "proofs", (len(document["proofs"]), events.count("cut"))
    yield "series", (len(document["series"]), sum(count for step, count in trains if step.watch))
    after = [row["after"] for row in events_told]
    yield "times of events", (after, sorted(min(max(x, 0), len(epochs)) for x in after))
    yield "point", (document["point"] is not None, "remembered" in events)
    yield "optimiser", (document["optimiser"] is not None, document["within"] > 0)
    seen = [(row["validation"], row["number"]) for row in document["log"] if row["validation"] is not None]
    yield "best", (document["best"], max(seen, key=lambda pair: (pair[0], -pair[1]), default=None))
    yield "epochs with a validation", (len(seen), len(epochs) if seen else 0)


def _replayed(
    program: schedules.Steps, answers: Sequence[bool | None], within: int
) -> Iterator[tuple[schedules.Step, int]]:
    """Yield the steps that were begun, each with the epochs that were trained of it."""
    step = next(program)
    for answer in answers:
        watched = isinstance(step, schedules.Train) and step.watch
        if isinstance(answer, bool) != watched:
            raise UsageError("an answer that its step does not give")
        yield step, step.epochs if isinstance(step, schedules.Train) else 0
        try:
            step = program.send(answer)
        except StopIteration:
            raise UsageError("more answers than there are steps") from None
    if within:
        if not isinstance(step, schedules.Train) or within > step.epochs:
            raise UsageError("more epochs than the step has")
        yield step, within


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a value has an annotated type: a number, a text, a union or a literal of these."""
    if get_origin(hint) in (Union, UnionType):
        return any(fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    return type(value) is hint or (hint is None and value is None)


def row_fits(row: Any, kind: type) -> bool:
    """Tell whether a table has the fields of a dataclass, each of its type."""
    hints = get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    return isinstance(row, dict) and row.keys() == names and all(fits(row[n], hints[n]) for n in names)


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _share(value: Any) -> bool:
    return fits(value, float) and 0 <= value <= 1


def _finite(value: Any) -> bool:
    return fits(value, float) and math.isfinite(value)


def _size(value: Any) -> bool:
    return _finite(value) and value >= 0


def _tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(x, Tensor) for name, x in value.items()
    )


def _state_dict(value: Any) -> bool:
    # A module's extra state may be anything.
    return isinstance(value, dict) and _tensors(
        {name: x for name, x in value.items() if not str(name).endswith("_extra_state")}
    )


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_plain, value.values()))
    return all(map(_plain, value)) if isinstance(value, (list, tuple)) else type(value) in PLAIN


def _epoch(row: Any) -> bool:
    if not row_fits(row, Epoch) or not _or_none(_share)(row["validation"]):
        return False
    return all(map(_size, (row["loss"], row["rate"], row["seconds"])))


def _proof(row: Any) -> bool:
    return row_fits(row, Proof) and all(x >= 0 for x in row.values() if isinstance(x, float))


def _event(row: Any) -> bool:
    return row_fits(row, Event) and row["what"] in EVENTS and _share(row["removed"])


def _best(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _share(value[0]) and _whole(value[1])


def _plan(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"keep", "budget", "reached"}:
        return False
    keep = value["keep"]
    masks = _tensors(keep) and all(x.dtype == torch.bool and x.dim() == 1 and x.any() for x in keep.values())
    return masks and _budget(value["budget"]) and _share(value["reached"])


def _budget(row: Any) -> bool:
    return row_fits(row, Budget) and 0 <= row["remove"] < 1 and 0 <= row["floor"] < 1 and row["align"] >= 1


def _optimiser(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"state", "param_groups"}
        and isinstance(value["state"], dict)
        and all(type(key) is int and isinstance(row, dict) for key, row in value["state"].items())
        and _list_of(lambda group: isinstance(group, dict) and _plain(group))(value["param_groups"])
    )


FIELDS: Mapping[str, tuple[Check, str]] = {
    "fingerprint": (lambda value: isinstance(value, dict) and _plain(value), "a table of settings"),
    "model": (_state_dict, "named tensors"),
    "masked": (_list_of(lambda name: isinstance(name, str)), "names of parameters"),
    "plan": (_or_none(_plan), "what every group keeps, or nothing"),
    "point": (_or_none(_state_dict), "named tensors, or nothing"),
    "optimiser": (_or_none(_optimiser), "the state of an optimiser, or nothing"),
    "answers": (_list_of(_or_none(lambda answer: isinstance(answer, bool))), "true, false or nothing each"),
    "within": (_whole, "a whole number from 0 on"),
    "watched": (_or_none(_tensors), "named tensors, or nothing"),
    "series": (_list_of(_finite), "numbers"),
    "cuts": (_whole, "a whole number from 0 on"),
    "best": (_or_none(_best), "an accuracy and its epoch, or nothing"),
    "seconds": (_size, "a number from 0 on"),
    "log": (_list_of(_epoch), "a row an epoch"),
    "events": (_list_of(_event), "a row an event"),
    "proofs": (_list_of(_proof), "a row a proof"),
}
"""Field -> what holds of it, in code and in words."""


def _shown(value: Any) -> str:
    text = f"{type(value).__name__} {value!r}" if not isinstance(value, Tensor) else "a tensor"
    return text if len(text) <= 60 else text[:57] + "..."
