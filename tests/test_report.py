from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from structprune.report.data import (
    SCHEMA,
    Accuracy,
    Count,
    Int8,
    Measurement,
    Proof,
    Protected,
    Ratio,
    Report,
    Series,
)
from structprune.report.serialise import from_json, to_json
from tests.render.reports import TRAINED

SMALL = Report(
    method="snip",
    model="resnet18",
    seed=0,
    nodes=Count(100, 11, 0.89, asked=0.89),
    weights=Count(1000, 20, 0.98),
    parameters=Count(1100, 40, 1 - 40 / 1100),
    flops=None,
    widths={"conv1": (64, 7), "fc": (10, 10)},
    protected=(),
    samples=64,
    draws=None,
    trained=False,
    trained_why="its batch norms have seen nothing yet",
    data="64 random inputs",
    proofs=(),
)
FULL = replace(
    SMALL,
    flops=Count(5000, 90, 0.982),
    protected=(Protected("fc", "it produces the network's outputs"), Protected("stem", "ünïcode ≠ ascii")),
    draws=5,
    proofs=(
        Proof("closed_gates", True, 1e-14, None, 3e-13, 1e-9, 0.2, "float64, 4 inputs"),
        Proof("onnx", False, 0.5, 1e-4, None, 1e-2, None, "batches 1, 2 and 7"),
    ),
    accuracy=Accuracy(0.917, 0.1, None, 5000, "test5k"),
    measurements=(
        Measurement(
            "batch_time", "onnxruntime", 1, 2, "ms", Series(2.0, (1.9, 2.0, 2.1)), Series(0.1, (0.1,)),
            Ratio(20.0, 19.5, 20.5), "CPU, warmed blocks", "20.0x faster", {"p95": 2.1, "provider": "CPU"},
        ),
        Measurement("disk", "none", None, None, "MB", Series(45.0, (45.0,)), Series(1.5, ()), None, "bytes"),
    ),
    seconds={"score": 1.5, "cut": 0.25},
    break_even=1e7,
    notes=("scored on noise",),
    software={"torch": "2.15.0"},
    hardware={"cpu": "2 cores"},
    int8=Int8(
        0.125, 0.75, 8, 16,
        (Measurement("disk", "none", None, None, "MB", Series(2.0, ()), Series(0.5, (0.5,)), None, "bytes"),),
        ("energy was not measured",), "16 of 64 images", 0.9, 0.8,
    ),
)  # fmt: skip


@pytest.mark.parametrize("report", [SMALL, FULL, TRAINED], ids=["small", "full", "trained"])
def test_a_report_comes_back_equal(report: Report) -> None:
    assert from_json(to_json(report)) == report
    assert to_json(from_json(to_json(report))) == to_json(report)


def test_every_part_comes_back_as_what_it_was() -> None:
    back = from_json(to_json(FULL))
    assert isinstance(back.measurements[0].ratio, Ratio)
    assert isinstance(back.measurements[0].dense, Series)
    assert isinstance(back.measurements[1].pruned.samples, tuple)
    assert isinstance(back.proofs[1], Proof)
    assert isinstance(back.accuracy, Accuracy)
    assert isinstance(back.flops, Count)
    assert back.widths["conv1"] == (64, 7)
    assert hash(back.protected) == hash(FULL.protected)


def test_the_json_has_the_keys_that_scripts_rely_on() -> None:
    raw = json.loads(to_json(FULL))
    assert raw["schema"] == SCHEMA
    assert raw["nodes"] == {"before": 100, "after": 11, "removed": 0.89, "asked": 0.89}
    assert raw["widths"] == {"conv1": [64, 7], "fc": [10, 10]}
    assert raw["protected"][0] == {"layer": "fc", "reason": "it produces the network's outputs"}
    assert {"name", "passed", "error", "tolerance"} <= raw["proofs"][0].keys()
    assert {"before", "cut", "finetuned"} <= raw["accuracy"].keys()
    expected = {"measurements", "samples", "draws", "trained", "trained_why", "seed", "software", "hardware"}
    assert expected <= raw.keys()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["proof", "count", "sample", "second"])
def test_what_json_has_no_word_for_is_refused(where: str, broken: float) -> None:
    (first, *others), (proof, *proofs) = FULL.measurements, FULL.proofs
    reports = {
        "proof": replace(FULL, proofs=(replace(proof, error=broken), *proofs)),
        "count": replace(FULL, nodes=Count(1, 1, broken)),
        "sample": replace(FULL, measurements=(replace(first, dense=Series(1.0, (broken,))), *others)),
        "second": replace(FULL, seconds={"score": broken}),
    }
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(reports[where])


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, None, "1", [1]])
def test_another_schema_is_refused(schema: Any) -> None:
    raw = {**json.loads(to_json(FULL)), "schema": schema}
    with pytest.raises(ValueError, match=f"not a report of schema {SCHEMA}: got schema"):
        from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "{", "not json", "[1, 2]", "3", "null", '"report"', "{}"])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a report"):
        from_json(text)


OPTIONAL = {
    "break_even",
    "control_flow",
    "hardware",
    "int8",
    "limits",
    "loss",
    "seconds",
    "software",
    "training",
}


@pytest.mark.parametrize("key", sorted(json.loads(to_json(SMALL)).keys() - {"schema"}))
def test_a_missing_key_is_refused_unless_it_has_a_default(key: str) -> None:
    raw = json.loads(to_json(SMALL))
    del raw[key]
    if key in OPTIONAL:
        assert from_json(json.dumps(raw)) == SMALL
    else:
        with pytest.raises(ValueError, match=f"not a report of schema {SCHEMA}: .*{key}"):
            from_json(json.dumps(raw))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nodes", {"before": 1}),
        ("nodes", 7),
        ("nodes", None),
        ("nodes", {}),
        ("widths", {"conv1": [1, 2, 3]}),
        ("widths", [1]),
        ("proofs", [{"name": "onnx"}]),
        ("protected", ["conv1"]),
        ("measurements", [{}]),
        ("measurements", 3),
        ("stranger", 1),
    ],
)
def test_a_report_of_the_wrong_shape_is_refused(key: str, value: Any) -> None:
    raw = {**json.loads(to_json(FULL)), key: value}
    with pytest.raises(ValueError, match=f"not a report of schema {SCHEMA}"):
        from_json(json.dumps(raw))


def test_reports_from_before_there_was_a_correction_are_read() -> None:
    old = json.loads(to_json(FULL))
    del old["accuracy"]["mended"]
    assert from_json(json.dumps(old)) == FULL
    mended = replace(FULL, accuracy=Accuracy(0.9, 0.1, None, 40, "forty", mended=0.8))
    assert from_json(to_json(mended)) == mended
    assert mended.accuracy is not None
    assert mended.accuracy.last == 0.8
