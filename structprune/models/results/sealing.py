"""Whose a folder is, by its content: a plan that parses, and files with the checksums that it names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from structprune.errors import InputError
from structprune.models.results.drafts import draft
from structprune.models.results.plan_file import PLAN, FileEntry, PlanFile, read_plan, to_json
from structprune.models.results.rebuild import WEIGHTS, check_header, checksum
from structprune.report.serialise import from_json

OUR_FILES = frozenset(
    {
        WEIGHTS,
        PLAN,
        "model.onnx",
        "model.onnx.data",
        "model.int8.onnx",
        "report.json",
        "report.md",
        "report.html",
        "pareto.json",
        "pareto.svg",
    }
)
"""All that structprune writes into a result folder, and all that is ever removed from one."""

REPORT = "report.json"


def seal(folder: Path) -> None:
    """Write into a folder's plan what its files are; a folder without a plan of ours stays as it is."""
    with suppress(InputError):
        plan = read_plan(folder)
        names = sorted(path.name for path in folder.iterdir())
        (folder / PLAN).write_text(to_json(_telling(plan, folder, names)), encoding="utf-8")


def enter(folder: Path, names: Iterable[str]) -> None:
    """Write into the plan of a result folder what files are that came into it later.

    A folder without a plan of ours, or with one from before plans told of files, stays as it is.
    """
    with suppress(InputError):
        plan = read_plan(folder)
        if plan.files is None:
            return
        with draft(folder / PLAN) as made:
            written = made.folder / PLAN
            written.write_text(to_json(_telling(plan, folder, names)), encoding="utf-8")
            written.replace(folder / PLAN)


def _telling(plan: PlanFile, folder: Path, names: Iterable[str]) -> PlanFile:
    told = {name: entry(folder / name) for name in names if name in OUR_FILES and name != PLAN}
    return replace(plan, files={**(plan.files or {}), **told})


def foreign(folder: Path) -> str | None:
    """What a folder holds that makes it none of our results, in words; None for one of ours.

    Of a plan's files some may be missing: there is nothing to lose by that.
    """
    strangers = sorted(entry.name for entry in os.scandir(folder) if not _may_be_ours(entry))
    if strangers:
        return f"{strangers[0]!r}, which structprune did not write,"
    if not (folder / PLAN).is_file():
        return f"no {PLAN}, so it is no result of structprune,"
    try:
        plan = read_plan(folder)
        return _old(folder, plan) if plan.files is None else _changed(folder, plan.files)
    except InputError as error:
        return f"no result of structprune ({error})"


def _may_be_ours(entry: os.DirEntry[str]) -> bool:
    return entry.name in OUR_FILES and entry.is_file(follow_symlinks=False)


def _changed(folder: Path, files: Mapping[str, FileEntry]) -> str | None:
    for path in sorted(folder.iterdir()):
        if path.name != PLAN and (path.name not in files or entry(path) != files[path.name]):
            return f"a {path.name} that structprune did not write with its {PLAN},"
    return None


def _old(folder: Path, plan: PlanFile) -> str | None:
    """Judge a result from before plans told of files: by its tensors, whose checksums it has, and its report.

    Raises:
        InputError: the weights are not the plan's.
    """
    from safetensors.torch import load_file

    try:
        check_header(plan, folder / WEIGHTS)
        weights = load_file(folder / WEIGHTS)
        from_json((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"no {REPORT} that structprune wrote ({error})"
    altered = [name for name, told in plan.tensors.items() if checksum(weights[name]) != told.crc32]
    return f"a {WEIGHTS} whose {altered[0]} is not the one of its {PLAN}," if altered else None


def entry(path: Path) -> FileEntry:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(path.stat().st_size, digest)
