"""The tables of a report as rows of text, which Markdown and the terminal draw each in their way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from structprune.report.data import Accuracy, Count, Int8, LimitResult, Measurement, Proof, Report
from structprune.report.training import Detection, Event


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: what it shows.
        head: the columns' names.
        rows: as many cells each as there are columns.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def deployment_table(report: Report) -> Table:
    """Return the table in the form of EarlyCroP's: one row a network, and the ratio between them."""
    columns = [("", "dense", "pruned", "dense / pruned"), *_sparsities(report), *map(_column, _main(report))]
    head, *rows = zip(*columns, strict=True)
    return Table(f"{report.model}, {report.method}", tuple(head), tuple(tuple(row) for row in rows))


def _sparsities(report: Report) -> list[tuple[str, str, str, str]]:
    rows = []
    if report.accuracy is not None:
        rows.append(("accuracy", _percent(report.accuracy.before), _percent(report.accuracy.last), ""))
    if report.training is not None:
        rows.append(("accuracy", "", _percent(report.training.test), ""))
        rows.append(("training time [s]", "", _figure(report.training.seconds), ""))
    for name, count in (("weight sparsity", report.weights), ("node sparsity", report.nodes)):
        rows.append((name, "0.0 %", _percent(count.removed), ""))
    return rows


def _main(report: Report) -> list[Measurement]:
    """The measurements that belong into the short table: one of each kind, at the smallest batch."""
    chosen: dict[tuple[str, str], Measurement] = {}
    for row in report.measurements:
        if row.name != "flops":
            chosen.setdefault((row.name, row.runtime), row)
    return list(chosen.values())


def _column(row: Measurement) -> tuple[str, str, str, str]:
    runtime = "" if row.runtime == "none" else f" {row.runtime}"
    batch = "" if row.batch is None or row.name != "batch_time" else f", batch {row.batch}"
    ratio = "" if row.ratio is None else f"{row.ratio.value:.3g}x ({row.ratio.low:.3g}-{row.ratio.high:.3g})"
    per = " per 1,000 inferences" if row.name in ("energy", "emissions") else ""
    head = f"{row.name.replace('_', ' ')}{per}{runtime}{batch} [{row.unit}]"
    return head, _figure(row.dense.median), _figure(row.pruned.median), ratio


def training_table(report: Report) -> Table:
    """Return what a training did: one row a fact; no rows for a report without one."""
    head = ("training", "")
    found = report.training
    if found is None:
        return Table("Trained", head, ())
    held = f" of {found.validation_images:,} images" if found.validation_images else ""
    best = "" if found.best_validation is None else f"{_percent(found.best_validation)}{held}"
    rows = [
        ("task, recipe", f"{found.task}, {found.recipe}"),
        (
            "test accuracy, last epoch",
            f"{_percent(found.test)} of {found.test_images:,} images ({found.test_how})",
        ),
        ("best validation", f"{best}, epoch {found.best_epoch}" if best else ""),
        *((event.what, _event(event)) for event in found.events),
    ]
    if found.detection is not None:
        rows.append(("detector", _detected(found.detection)))
        rows.append(("what it saw", curve(found.detection.series)))
    rows.append(("loss, epoch by epoch", curve([epoch.loss for epoch in found.log])))
    return Table("Trained", head, tuple(row for row in rows if row[1]))


def _event(event: Event) -> str:
    return f"after epoch {event.after}: {event.removed:.4f} gone"


def _detected(found: Detection) -> str:
    if found.fired_after is None:
        return f"{found.words}; never, so after the latest epoch, {found.latest}"
    return f"{found.words}; after epoch {found.fired_after}"


BLOCKS = "▁▂▃▄▅▆▇█"


def curve(values: Sequence[float], most: int = 60) -> str:
    """Draw a series as one line of blocks, with its first, largest and last value.

    Example:
        >>> curve([1.0, 2.0, 3.0])
        '▁▅█  1 to 3, at most 3'
    """
    if not values:
        return ""
    stride = -(-len(values) // most)
    shown = values[::stride]
    low, high = min(values), max(values)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    bars = "".join(BLOCKS[round((value - low) * scale)] for value in shown)
    return f"{bars}  {values[0]:.3g} to {values[-1]:.3g}, at most {high:.3g}"


def accuracy_table(report: Report) -> Table:
    """Return the accuracy at every stage; no rows for a report without one."""
    found = report.accuracy
    stages = () if found is None else accuracy_stages(found)
    return Table("Accuracy", ("stage", "top-1"), tuple((stage, _percent(value)) for stage, value in stages))


def accuracy_stages(accuracy: Accuracy) -> tuple[tuple[str, float], ...]:
    """Name every stage at which accuracy was taken, with it."""
    stages = (
        ("before", accuracy.before),
        ("after the cut", accuracy.cut),
        ("mended", accuracy.mended),
        ("fine-tuned", accuracy.finetuned),
    )
    return tuple((stage, value) for stage, value in stages if value is not None)


def count_table(report: Report) -> Table:
    """Return how much of everything is gone."""
    named: tuple[tuple[str, Count | None], ...] = (
        ("nodes", report.nodes),
        ("weights", report.weights),
        ("parameters", report.parameters),
        ("multiply-adds", report.flops),
    )
    rows = tuple((name, *_count_cells(count)) for name, count in named if count is not None)
    return Table("What is gone", ("", "before", "after", "removed", "asked"), rows)


def _count_cells(count: Count) -> tuple[str, str, str, str]:
    asked = "" if count.asked is None else f"{count.asked:.4g}"
    return f"{count.before:,}", f"{count.after:,}", f"{count.removed:.4f}", asked


def limit_table(report: Report) -> Table:
    """Return what was asked for in other units than nodes, and what was reached; no rows without any."""
    rows = tuple(
        (met.name, met.asked, _limited(met, met.bound), _limited(met, met.reached), met.how)
        for met in report.limits
    )
    return Table("Asked for", ("limit", "asked", "that is", "reached", "how"), rows)


def _limited(met: LimitResult, value: float) -> str:
    if met.unit:
        return f"{value:.4g}{'' if met.unit == 'x' else ' '}{met.unit}"
    return f"{value:.4f}" if met.name == "nodes" else f"{value:,.0f}"


def proof_table(report: Report) -> Table:
    """Return the proofs with both of their figures."""
    head = ("proof", "passed", "error", "allowed", "of the spread", "allowed", "how")
    return Table("Proofs", head, tuple(_proof_cells(proof) for proof in report.proofs))


def _proof_cells(proof: Proof) -> tuple[str, ...]:
    return (
        proof.name,
        "yes" if proof.passed else "NO",
        f"{proof.error:.1e}",
        _optional(proof.tolerance, "{:.0e}"),
        _optional(proof.error_of_spread, "{:.1e}"),
        _optional(proof.tolerance_of_spread, "{:.0e}"),
        proof.how,
    )


def measurement_table(report: Report) -> Table:
    """Return every measurement with its ratio and verdict."""
    head = ("", "runtime", "batch", "threads", "dense", "pruned", "unit", "ratio (95 %)", "verdict")
    return Table("Measured", head, tuple(_measurement_cells(row) for row in report.measurements))


def _measurement_cells(row: Measurement) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio.value:.3g} ({row.ratio.low:.3g}-{row.ratio.high:.3g})"
    return (
        row.name.replace("_", " "),
        row.runtime,
        _optional(row.batch, "{}"),
        _optional(row.threads, "{}"),
        _figure(row.dense.median),
        _figure(row.pruned.median),
        row.unit,
        ratio,
        row.verdict,
    )


def int8_table(report: Report) -> Table:
    """Return what the int8 file is worth, beside the float32 file; no rows where there is none."""
    return int8_rows(report.int8)


def int8_rows(found: Int8 | None) -> Table:
    """Return the int8 file's figures beside the float32 file's."""
    head = ("int8", "float32", "int8", "float32 / int8", "verdict")
    if found is None:
        return Table("int8", head, ())
    rows = [(_what(row), *_column(row)[1:], row.verdict) for row in found.measurements]
    if found.accuracy is not None and found.accuracy_before is not None:
        rows.insert(0, ("accuracy", _percent(found.accuracy_before), _percent(found.accuracy), "", ""))
    if found.same_largest is not None:
        words = f"of {found.compared:,} inputs"
        rows.append(("same largest output", "", _percent(found.same_largest), "", words))
    if found.error_of_spread is not None:
        rows.append(("largest error, of the spread", "", f"{found.error_of_spread:.1e}", "", ""))
    return Table("int8", head, tuple(rows))


def _what(row: Measurement) -> str:
    batch = "" if row.batch is None else f", batch {row.batch}"
    return f"{row.name.replace('_', ' ')}{batch} [{row.unit}]"


def int8_line(found: Int8) -> str:
    """Say in a sentence whether int8 is faster, and what it costs.

    Example:
        >>> int8_line(Int8(0.1, None, compared=4, calibrated=4, measurements=(), calibration="4 images"))
        'int8, calibrated on 4 images: not timed; outputs off by up to 0.1 of their spread.'
    """
    times = [row for row in found.measurements if row.name == "batch_time"]
    said = [f"{row.verdict} at batch {row.batch}" for row in times]
    slower = any("slower" in row.verdict for row in times)
    parts = [f"{'it does not pay everywhere: ' if slower else ''}{', '.join(said)}" if said else "not timed"]
    if found.accuracy is not None and found.accuracy_before is not None:
        parts.append(f"accuracy {found.accuracy_before:.1%} before, {found.accuracy:.1%} after")
    if found.error_of_spread is not None:
        parts.append(f"outputs off by up to {found.error_of_spread:.2g} of their spread")
    return f"int8, calibrated on {found.calibration}: {'; '.join(parts)}.".replace("%", " %")


def _optional(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


TABLES: Sequence[Callable[[Report], Table]] = (
    deployment_table,
    training_table,
    limit_table,
    accuracy_table,
    count_table,
    proof_table,
    measurement_table,
    int8_table,
)
"""In the order in which a report shows them."""
