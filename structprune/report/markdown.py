"""``report.md``."""

from __future__ import annotations

from collections.abc import Iterator

from structprune.report.data import Accuracy, Report
from structprune.report.tables import TABLES, Table, accuracy_stages, int8_line
from structprune.report.training import Training


def markdown(report: Report) -> str:
    """Draw a report as Markdown; nothing but the report goes in."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield _title(report)
    yield ""
    draws = "" if report.draws is None else f", {report.draws} draws"
    if report.training is not None:
        yield f"Method {report.method}, seed {report.seed}, scored on {report.data}."
    else:
        yield f"Score {report.method}, seed {report.seed}, scored on {report.data}{draws};"
        yield f"the network counts as {'trained' if report.trained else 'untrained'}: {report.trained_why}."
    for build in TABLES:
        table = build(report)
        if table.rows:
            yield from ("", f"## {table.title}", "", *_table(table))
    if report.break_even is not None:
        yield from ("", f"Compressing pays for itself after {report.break_even:,.0f} inferences.")
    if report.accuracy is not None:
        yield from ("", accuracy_line(report.accuracy))
    if report.int8 is not None:
        yield from ("", int8_line(report.int8))
    yield from (
        "",
        "Seconds: " + ", ".join(f"{step} {taken:g}" for step, taken in report.seconds.items()) + ".",
    )
    yield from _section("Notes", [*report.notes, *_how_measured(report)])
    yield from _section("Control flow", [f"{branch}." for branch in report.control_flow])
    yield from _section("Not cut", [f"{row.layer}: {row.reason}" for row in report.protected])
    yield from ("", "## Widths", "", *_table(_widths(report)))
    if report.training is not None:
        yield from ("", "## Epochs", "", *_table(_epochs(report.training)))
    yield from _section("Software", [f"{name} {version}" for name, version in report.software.items()])
    yield from _section("Hardware", [f"{name}: {value}" for name, value in report.hardware.items()])


def _title(report: Report) -> str:
    if report.training is not None and report.training.masked:
        return f"# {report.model}: {100 * report.weights.removed:.1f} % of the weights masked"
    return f"# {report.model}: {100 * report.nodes.removed:.1f} % of the nodes removed"


def _epochs(training: Training) -> Table:
    rows = tuple(
        (
            str(epoch.number),
            f"{epoch.loss:.4f}",
            "" if epoch.validation is None else f"{100 * epoch.validation:.2f} %",
            f"{epoch.rate:.2g}",
            f"{epoch.seconds:.1f}",
        )
        for epoch in training.log
    )
    return Table("Epochs", ("epoch", "loss", "validation", "rate", "s"), rows)


def accuracy_line(accuracy: Accuracy) -> str:
    """Say all accuracies in a sentence."""
    parts = [f"{stage} {value:.1%}" for stage, value in accuracy_stages(accuracy)]
    on = f" on {accuracy.images:,} images" if accuracy.images else ""
    return f"Accuracy{on} ({accuracy.how}): {', '.join(parts)}.".replace("%", " %")


def _section(title: str, items: list[str]) -> Iterator[str]:
    if items:
        yield from ("", f"## {title}", "", *(f"- {item}" for item in items))


def _how_measured(report: Report) -> Iterator[str]:
    for row in report.measurements:
        batch = "" if row.batch is None else f", batch {row.batch}"
        yield f"{row.name.replace('_', ' ')} ({row.runtime}{batch}): {row.how}"


def _widths(report: Report) -> Table:
    rows = tuple((layer, str(before), str(after)) for layer, (before, after) in report.widths.items())
    return Table("Widths", ("layer", "before", "after"), rows)


def _table(table: Table) -> Iterator[str]:
    yield _row(table.head)
    yield _row(tuple("---" for _ in table.head))
    yield from map(_row, table.rows)


def _row(cells: tuple[str, ...]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
