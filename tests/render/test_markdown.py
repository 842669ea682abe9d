from __future__ import annotations

import re
from dataclasses import replace

import pytest

from structprune.report import TABLES, markdown
from structprune.report.data import Protected, Report
from tests.render.reports import BARE, FULL, TRAINED


@pytest.mark.parametrize("report", [FULL, BARE, TRAINED], ids=["full", "bare", "trained"])
def test_every_cell_of_every_table_is_there(report: Report) -> None:
    text = markdown(report)
    for build in TABLES:
        table = build(report)
        for row in (table.head, *table.rows) if table.rows else ():
            assert "| " + " | ".join(row) + " |" in text


@pytest.mark.parametrize(
    "figure",
    {
        "score": "ntk_sap+crop",
        "seed": "4711",
        "nodes removed": "89.0 %",
        "width before": "66",
        "width after": "9",
        "samples": "1,536",
        "draws": "29",
        "accuracy before": "91.7 %",
        "accuracy after the cut": "10.3 %",
        "accuracy after fine-tuning": "85.4 %",
        "images": "4,096",
        "seconds of scoring": "11.5",
        "seconds of fine-tuning": "33.5",
        "break-even": "1,234,567",
        "error of a proof": "4.5e-02",
        "parameters": "130,001",
        "multiply-adds": "28,885,566",
    }.items(),
    ids=lambda item: item[0],
)
def test_every_figure_is_there(figure: tuple[str, str]) -> None:
    assert re.search(rf"(?<![\d.,]){re.escape(figure[1])}(?!\d)", markdown(FULL))


@pytest.mark.parametrize(
    "words",
    [
        "its batch norms have seen data",
        "1,536 images of digits",
        "fc: it produces the network's outputs",
        "| layer1.0.conv1 | 66 | 9 |",
        "torch 2.15.0",
        "processor: AMD EPYC",
        "the test set",
        "batch time (onnxruntime, batch 8): onnxruntime in warmed blocks of 8",
        "disk (none): bytes",
    ],
)
def test_the_words_are_there(words: str) -> None:
    assert words in markdown(FULL)


@pytest.mark.parametrize(("report", "more"), [(FULL, 0), (TRAINED, 1)], ids=["compressed", "trained"])
def test_tables_are_whole(report: Report, more: int) -> None:
    """Every run of table lines has one head, one rule and rows with as many bars."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", markdown(report), flags=re.MULTILINE)
    # All but those of a training and of int8, and the widths; a training brings its own and its epochs, but
    # no accuracies.
    assert len(blocks) == len(TABLES) - 2 + 1 + more
    for block in blocks:
        head, rule, *rows = block.splitlines()
        assert set(rule) <= set("|- ")
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in (head, rule, *rows)}
        assert len(bars) == 1
        assert rows


def test_a_bar_in_a_cell_is_escaped() -> None:
    proof = replace(FULL.proofs[0], how="max|a - b|")
    assert "max\\|a - b\\|" in markdown(replace(FULL, proofs=(proof,)))


def test_what_there_is_none_of_is_not_announced() -> None:
    text = markdown(replace(BARE, protected=()))
    for word in ("Not cut", "Notes", "Measured", "Accuracy", "None", "pays for itself"):
        assert word not in text


def test_everything_comes_from_the_report() -> None:
    assert markdown(FULL) == markdown(replace(FULL))
    other = replace(FULL, protected=(Protected("stem", "unknown operation"),))
    assert "stem: unknown operation" in markdown(other)
    assert "it produces the network's outputs" not in markdown(other)


@pytest.mark.parametrize(
    "words",
    [
        "98.1 % of the weights masked",
        "Method earlycrop-u, seed 4711",
        "63.2 % of 1,234 images",
        "61.9 % of 99 images, epoch 2",
        "| cut | after epoch 1: 0.5123 gone |",
        "it moves less; after epoch 1",
        "| 2 | 0.4321 | 61.90 % | 0.0025 | 12.5 |",
    ],
)
def test_a_training_is_told_in_full(words: str) -> None:
    assert words in markdown(TRAINED)


def test_a_detector_that_never_fired_is_said_to_have_not() -> None:
    assert TRAINED.training is not None
    assert TRAINED.training.detection is not None
    never = replace(TRAINED.training.detection, fired_after=None)
    report = replace(TRAINED, training=replace(TRAINED.training, detection=never))
    assert "never, so after the latest epoch, 3" in markdown(report)
