from __future__ import annotations

from dataclasses import replace

import pytest

from structprune.report import TABLES, count_table, deployment_table, measurement_table, proof_table
from structprune.report.data import Accuracy, Report
from tests.render.reports import BARE, FULL


@pytest.mark.parametrize("report", [FULL, BARE], ids=["full", "bare"])
@pytest.mark.parametrize("build", TABLES)
def test_every_row_has_as_many_cells_as_there_are_columns(build: object, report: Report) -> None:
    table = build(report)  # type: ignore[operator]
    assert table.title
    assert all(len(row) == len(table.head) for row in table.rows)


def columns(report: Report) -> dict[str, tuple[str, ...]]:
    table = deployment_table(report)
    return dict(zip(table.head, zip(*table.rows, strict=True), strict=True))


def test_the_deployment_table_has_a_row_a_network_and_one_of_ratios() -> None:
    found = columns(FULL)
    assert found[""] == ("dense", "pruned", "dense / pruned")
    assert found["node sparsity"] == ("0.0 %", "89.0 %", "")
    assert found["weight sparsity"] == ("0.0 %", "98.9 %", "")
    assert found["batch time onnxruntime, batch 1 [ms]"] == ("2.12", "0.125", "17x (16.9-17.1)")
    assert found["batch time torch, batch 1 [ms]"][:2] == ("5.5", "3.25")
    assert found["disk [MB]"] == ("44.8", "0.625", "")
    assert found["energy per 1,000 inferences onnxruntime [J]"][:2] == ("57.5", "2.38")
    assert not any("batch 8" in head or "flops" in head for head in found)  # of each kind the smallest batch


@pytest.mark.parametrize(("finetuned", "after"), [(0.8543, "85.4 %"), (None, "10.3 %"), (0.0, "0.0 %")])
def test_accuracy_after_is_the_last_that_was_taken(finetuned: float | None, after: str) -> None:
    report = replace(FULL, accuracy=Accuracy(0.9171, 0.1032, finetuned, 4096, "the test set"))
    assert columns(report)["accuracy"] == ("91.7 %", after, "")


def test_without_data_and_measurements_only_sparsities_are_left() -> None:
    assert list(columns(BARE)) == ["", "weight sparsity", "node sparsity"]


def test_counts_are_whole_and_say_what_was_asked() -> None:
    assert count_table(FULL).rows == (
        ("nodes", "4,800", "528", "0.8901", "0.89"),
        ("weights", "11,167,851", "123,456", "0.9889", ""),
        ("parameters", "11,689,512", "130,001", "0.9889", ""),
        ("multiply-adds", "1,814,073,344", "28,885,566", "0.9841", ""),
    )
    assert [row[0] for row in count_table(BARE).rows] == ["nodes", "weights", "parameters"]


def test_proofs_come_with_both_figures_and_both_bounds() -> None:
    assert proof_table(FULL).rows == (
        ("closed_gates", "yes", "1.2e-14", "", "3.5e-13", "1e-09", "8 inputs, float64"),
        ("onnx", "NO", "4.5e-02", "1e-04", "6.5e-01", "1e-02", "batches of 1, 2 and 7"),
        ("signature", "yes", "0.0e+00", "0e+00", "", "", "at two batch sizes"),
    )


def test_every_measurement_is_a_row() -> None:
    rows = measurement_table(FULL).rows
    assert len(rows) == len(FULL.measurements)
    assert rows[1] == (
        *("batch time", "onnxruntime", "8", "1", "17.2", "1.38", "ms", "12.5 (12.4-12.7)", "faster"),
    )
    assert rows[3] == ("disk", "none", "", "", "44.8", "0.625", "MB", "", "")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1234.6, "1,235"), (999.4, "999"), (0.000123, "0.000123"), (12.0, "12")]
)
def test_figures_have_three_digits_and_no_powers(value: float, text: str) -> None:
    (first, *_) = FULL.measurements
    report = replace(FULL, measurements=(replace(first, dense=replace(first.dense, median=value)),))
    assert measurement_table(report).rows[0][4] == text
