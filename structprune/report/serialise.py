"""A report as JSON, and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from structprune.report.data import (
    SCHEMA,
    Accuracy,
    Branch,
    Count,
    Int8,
    LimitResult,
    Measurement,
    Proof,
    Protected,
    Ratio,
    Report,
    Series,
)
from structprune.report.training import Detection, Epoch, Event, Training


def to_json(report: Report) -> str:
    """Write a report as one JSON document, two spaces deep, keys in the order of :class:`Report`.

    Raises:
        ValueError: the report holds NaN or infinity, which JSON has no word for.
    """
    return json.dumps(asdict(report), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Report:
    """Read what :func:`to_json` wrote.

    Raises:
        ValueError: the text is no report of this schema.
    """
    try:
        raw: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not a report: {error}") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        got = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise ValueError(f"not a report of schema {SCHEMA}: got schema {got!r}")
    try:
        return _report(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not a report of schema {SCHEMA}: {error}") from error


def _report(raw: dict[str, Any]) -> Report:
    counts = {key: Count(**raw[key]) for key in ("nodes", "weights", "parameters")}
    rebuilt = {
        "widths": {layer: (int(before), int(after)) for layer, (before, after) in raw["widths"].items()},
        "protected": tuple(Protected(**row) for row in raw["protected"]),
        "proofs": tuple(Proof(**row) for row in raw["proofs"]),
        "flops": None if raw["flops"] is None else Count(**raw["flops"]),
        "accuracy": raw["accuracy"] and Accuracy(**raw["accuracy"]),
        "measurements": tuple(_measurement(row) for row in raw["measurements"]),
        "training": raw.get("training") and _training(raw["training"]),
        "limits": tuple(LimitResult(**row) for row in raw.get("limits", ())),
        "int8": raw.get("int8") and int8_from(raw["int8"]),
        "notes": tuple(raw["notes"]),
        "control_flow": tuple(Branch(**row) for row in raw.get("control_flow", ())),
    }
    return Report(**{**raw, **counts, **rebuilt})


def _training(row: dict[str, Any]) -> Training:
    detection = row["detection"] and Detection(
        **{**row["detection"], "series": tuple(row["detection"]["series"])}
    )
    rebuilt = {
        "log": tuple(Epoch(**epoch) for epoch in row["log"]),
        "events": tuple(Event(**event) for event in row["events"]),
        "detection": detection,
        "collapsed": tuple(row["collapsed"]),
    }
    return Training(**{**row, **rebuilt})


def int8_from(row: dict[str, Any]) -> Int8:
    """Read what ``asdict`` made of an :class:`Int8`."""
    measurements = tuple(_measurement(each) for each in row["measurements"])
    return Int8(**{**row, "measurements": measurements, "notes": tuple(row["notes"])})


def _measurement(row: dict[str, Any]) -> Measurement:
    sides = {side: Series(row[side]["median"], tuple(row[side]["samples"])) for side in ("dense", "pruned")}
    return Measurement(**{**row, **sides, "ratio": row["ratio"] and Ratio(**row["ratio"])})
