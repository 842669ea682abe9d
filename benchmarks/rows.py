"""Rows of benchmarks: one JSON file each, so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from structprune.environment import hardware, software

RESULTS = Path(__file__).parent / "results"
Row = Mapping[str, Any]


def collect(
    benchmark: str, keys: Iterable[str], run: Callable[[str], Row], *, again: bool = False
) -> list[Row]:
    """Run what has no file yet, and return every row, in the order of the keys.

    Args:
        benchmark: the folder under ``results``.
        keys: a row's name, which is also its file's.
        run: key -> row.
        again: run every row anew.
    """
    folder = RESULTS / benchmark
    folder.mkdir(parents=True, exist_ok=True)
    return [_row(folder / f"{key}.json", key, run, again) for key in keys]


def _row(path: Path, key: str, run: Callable[[str], Row], again: bool) -> Row:
    if not path.exists() or again:
        print(f"- {key}", flush=True)
        row = {"key": key, **run(key), "machine": machine()}
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
    found: Row = json.loads(path.read_text(encoding="utf-8"))
    return found


def machine() -> dict[str, str]:
    """Return the machine that a row was taken on."""
    found = {**hardware(torch.device("cpu")), "torch": software()["torch"]}
    found["load"] = f"{os.getloadavg()[0]:.1f}"
    return found


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
