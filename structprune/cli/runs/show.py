"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from structprune.cli import console as shell
from structprune.report import (
    TABLES,
    Table,
    accuracy_line,
    count_table,
    deployment_table,
    int8_line,
    int8_table,
    limit_table,
    proof_table,
    training_table,
)
from structprune.report.data import Report

# What matters most stands last, where the eye is when a run has ended.
SHORT: Sequence[Callable[[Report], Table]] = (
    proof_table,
    training_table,
    count_table,
    limit_table,
    int8_table,
    deployment_table,
)
WHOLE: Sequence[Callable[[Report], Table]] = tuple(reversed(TABLES))


def show(report: Report, builders: Sequence[Callable[[Report], Table]]) -> None:
    """Print tables of a report, and below them what is no table."""
    for build in builders:
        table = build(report)
        if table.rows:
            shell.print_table(table, transposed=build is deployment_table)
    for sentence in _sentences(report):
        shell.print_line(sentence)


def show_result(report: Report, folder: Path, as_json: bool) -> None:
    """Print what came of a run whose result lies in a folder: tables and sentences, or one document."""
    shell.written()
    if as_json:
        shell.print_json(asdict(report))
        return
    show(report, SHORT)
    shell.print_line(f"Written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def _sentences(report: Report) -> Iterator[str]:
    if report.accuracy is not None:
        yield accuracy_line(report.accuracy)
    if report.int8 is not None:
        yield int8_line(report.int8)
    if report.break_even is not None:
        yield f"Compressing pays for itself after {report.break_even:,.0f} inferences."
    yield from (f"Note: {note}." for note in report.notes)
