from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from structprune.report import front_svg, front_table
from structprune.report.data import Ratio
from structprune.report.sweep import ParetoSweep, Point, marked, to_json
from structprune.report.sweep_chart import HEIGHT, WIDTH, ticks

POINTS = (
    Point(0.0, 4_000_000, 900_000_000, 20.5, 20.1, 21.5, None, 1.0),
    Point(0.25, 2_000_000, 600_000_000, 22.0, 21.0, 23.0, Ratio(0.93, 0.91, 0.96), 0.875),
    Point(0.5, 1_000_000, None, 5.125, 5.0, 5.5, Ratio(4.0, 3.9, 4.1), 0.625),
    Point(0.75, 1_000, 1_000, 1.25, 1.125, 1.75, Ratio(16.4, 16.1, 16.8), 0.25),
)
FRONT = ParetoSweep(
    model="net <1>",
    method="crop",
    by="nodes",
    align=16,
    batch=1,
    threads=2,
    how="ONNX Runtime",
    points=marked(POINTS),
    data="noise",
)
JUDGED = replace(
    FRONT,
    accuracy_how="40 images",
    points=marked(
        [replace(p, accuracy=a) for p, a in zip(POINTS, (0.91, 0.92, 0.5, 0.5), strict=True)]
    ),
)  # fmt: skip
SPACE = "{http://www.w3.org/2000/svg}"


def test_points_that_no_other_dominates_are_marked() -> None:
    assert [point.best for point in FRONT.points] == [True, False, True, True]  # the second is slower, too
    assert [point.best for point in JUDGED.points] == [True, True, False, True]  # accuracy counts where it is
    same = replace(POINTS[0])
    assert all(point.best for point in marked([POINTS[0], same]))


def test_the_table() -> None:
    table = front_table(FRONT)
    assert table.title == "net <1>, crop, align 16: batch 1, 2 thread(s)"
    assert all(len(row) == len(table.head) for row in table.rows)
    assert table.rows[2] == (
        "0.5000", "1,000,000", "", "5.12 (5-5.5)", "4x (3.9-4.1)", "0.6250", "*",
    )  # fmt: skip
    assert "accuracy" not in table.head
    judged = front_table(JUDGED)
    assert [row[judged.head.index("accuracy")] for row in judged.rows] == [
        "91.0 %",
        "92.0 %",
        "50.0 %",
        "50.0 %",
    ]


def test_the_json_holds_everything() -> None:
    document = json.loads(to_json(FRONT))
    assert document["schema"] == 1
    assert document["points"][3]["ratio"] == {"value": 16.4, "low": 16.1, "high": 16.8}
    assert [point["best"] for point in document["points"]] == [True, False, True, True]


@pytest.mark.parametrize("front", [FRONT, JUDGED, replace(FRONT, points=marked(POINTS[:1]))])
def test_the_drawing(front: ParetoSweep) -> None:
    root = ElementTree.fromstring(front_svg(front))
    words = [element.text or "" for element in root.iter(f"{SPACE}text")]
    assert "net <1>, crop, align 16: batch 1, 2 thread(s)" in words
    assert "time of a batch of 1 in ONNX Runtime, 2 CPU thread(s) [ms]" in words
    quality = "kept score [fraction of all ranks]" if front.accuracy_how is None else "top-1 accuracy [%]"
    assert quality in words
    assert {f"{point.nodes:.2f}" for point in front.points} <= set(words)
    dots = list(root.iter(f"{SPACE}circle"))
    assert [dot.get("class") for dot in dots] == ["best" if p.best else "other" for p in front.points]
    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in dots]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in places)
    # Slower lies further right, better higher up.
    order = sorted(range(len(places)), key=lambda i: front.points[i].latency)
    assert order == sorted(range(len(places)), key=lambda i: places[i][0])
    assert all(
        (a.quality > b.quality) <= (y < v)
        for a, (_, y) in zip(front.points, places, strict=True)
        for b, (_, v) in zip(front.points, places, strict=True)
    )
    (line,) = root.iter(f"{SPACE}polyline")
    assert len(line.attrib["points"].split()) == sum(point.best for point in front.points)


@pytest.mark.parametrize(("low", "high"), [(0, 0.00123), (0.09, 1.0), (13.2, 13.2), (0, 812), (91.2, 93.4)])
def test_ticks_span_what_is_drawn(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert found[0] < found[-1]
    assert 2 <= len(found) <= 12
