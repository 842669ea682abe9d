"""A sweep as a table and as a drawing: SVG, written by hand, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from structprune.report.sweep import ParetoSweep, Point
from structprune.report.tables import Table

WIDTH, HEIGHT = 760, 480
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 64, 58
STYLE = """
text{font:13px sans-serif;fill:#222}.small{font-size:11px;fill:#555}.title{font-size:16px;font-weight:600}
.grid{stroke:#ddd}.axis{stroke:#444}.front{fill:none;stroke:#1f6fb4;stroke-width:2}
.best{fill:#1f6fb4}.other{fill:#fff;stroke:#888;stroke-width:1.5}.spread{stroke:#1f6fb4;stroke-opacity:.4}
"""


def front_table(front: ParetoSweep) -> Table:
    """Return a row a point, those marked that no other dominates."""
    accuracy = front.accuracy_how is not None
    head = (
        "nodes removed",
        "parameters",
        "multiply-adds",
        "ms (5-95 %)",
        "speed-up (95 %)",
        "kept score",
        *(("accuracy",) if accuracy else ()),
        "best",
    )
    return Table(_title(front), head, tuple(_cells(point, accuracy) for point in front.points))


def _title(front: ParetoSweep) -> str:
    align = f", align {front.align}" if front.align != 1 else ""
    return f"{front.model}, {front.method}{align}: batch {front.batch}, {front.threads} thread(s)"


def _cells(point: Point, accuracy: bool) -> tuple[str, ...]:
    ratio = point.ratio
    return (
        f"{point.nodes:.4f}",
        f"{point.parameters:,}",
        "" if point.flops is None else f"{point.flops:,}",
        f"{point.latency:.3g} ({point.fast:.3g}-{point.slow:.3g})",
        "" if ratio is None else f"{ratio.value:.3g}x ({ratio.low:.3g}-{ratio.high:.3g})",
        f"{point.kept_score:.4f}",
        *(("" if point.accuracy is None else f"{100 * point.accuracy:.1f} %",) if accuracy else ()),
        "*" if point.best else "",
    )


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Return round figures that span [low, high], in steps of 1, 2 or 5 times a power of ten.

    Example:
        >>> ticks(0.0, 23.0)
        [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]
    """
    rough = max(high - low, 1e-9) / (about - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.99)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(start, max(end, start + 1) + 1)]


def front_svg(front: ParetoSweep) -> str:
    """Draw accuracy, or without data the kept score, against latency.

    Points are labelled with the fraction of nodes removed; those that no other dominates are filled and
    joined, and the bar through each spans the 5th to the 95th percentile of its times.
    """
    body = "\n".join(_drawn(front))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img">\n<title>{escape(_title(front))}</title>\n<style>{STYLE}</style>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _drawn(front: ParetoSweep) -> Iterator[str]:
    scale = 1.0 if front.accuracy_how is None else 100.0
    xs = ticks(0.0, max(point.slow for point in front.points))
    quality = [scale * point.quality for point in front.points]
    ys = ticks(min(quality), max(quality))
    yield _text(LEFT, 26, _title(front), "title")
    yield _text(LEFT, 46, "filled: no other point is as fast and as good; labels: nodes removed", "small")
    yield from _axes(front, xs, ys)
    places = [
        (_across(point.latency, xs), _up(y, ys)) for point, y in zip(front.points, quality, strict=True)
    ]
    best = [place for point, place in zip(front.points, places, strict=True) if point.best]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in sorted(best))
    yield f'<polyline class="front" points="{joined}"/>'
    for point, (x, y) in zip(front.points, places, strict=True):
        ends = _across(point.fast, xs), _across(point.slow, xs)
        yield f'<line class="spread" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<circle class="{"best" if point.best else "other"}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
        yield _text(x + 8, y + 16, f"{point.nodes:.2f}", "small")


def _axes(front: ParetoSweep, xs: Sequence[float], ys: Sequence[float]) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for x in xs:
        at = _across(x, xs)
        yield f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>'
        yield _text(at, bottom + 18, f"{x:g}", "small", "middle")
    for y in ys:
        at = _up(y, ys)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield _text(LEFT - 8, at + 4, f"{y:g}", "small", "end")
    yield f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    words = f"time of a batch of {front.batch} in ONNX Runtime, {front.threads} CPU thread(s) [ms]"
    yield _text((LEFT + right) / 2, HEIGHT - 16, words, "", "middle")
    quality = "kept score [fraction of all ranks]" if front.accuracy_how is None else "top-1 accuracy [%]"
    middle = (TOP + bottom) / 2
    turned = f'transform="rotate(-90 20 {middle:.1f})"'
    yield f'<text x="20" y="{middle:.1f}" text-anchor="middle" {turned}>{quality}</text>'


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _across(x: float, xs: Sequence[float]) -> float:
    return LEFT + (x - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT)


def _up(y: float, ys: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - (y - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM)
