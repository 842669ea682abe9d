"""Choosing channels the slow way: one sorted list, walked from the worst on; and all totals by trying."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A group: a score a channel, nodes a channel, and the blocks that must stay of equal width."""

    name: str
    scores: tuple[float, ...]
    cost: int = 1
    divisor: int = 1


def least_width(row: Row, floor: float, align: int) -> int:
    """The smallest width that the floor, the divisor and the alignment allow: tried from 1 on."""
    for width in range(1, len(row.scores) + 1):
        block = len(row.scores) // row.divisor
        if is_valid(row, width, align) and width // row.divisor >= max(1, math.ceil(floor * block - 1e-9)):
            return width
    return len(row.scores)


def is_valid(row: Row, width: int, align: int) -> bool:
    """Whether a group may have this width: its own, or a multiple of everything that is asked."""
    own = width == len(row.scores)
    return own or (width % row.divisor == 0 and width % align == 0)


def walk(rows: Sequence[Row], target: int, floor: float) -> dict[str, list[bool]]:
    """Remove single channels, worst first, ties by (group, channel), until the target or every floor."""
    order = sorted((score, g, c) for g, row in enumerate(rows) for c, score in enumerate(row.scores))
    keep = {row.name: [True] * len(row.scores) for row in rows}
    left = target
    for _, g, c in order:
        row, kept = rows[g], keep[rows[g].name]
        if row.cost <= left and sum(kept) > least_width(row, floor, 1):
            kept[c] = False
            left -= row.cost
    return keep


def removed(rows: Sequence[Row], keep: Mapping[str, Sequence[bool]]) -> int:
    return sum(row.cost * (len(row.scores) - sum(keep[row.name])) for row in rows)


def totals(rows: Sequence[Row], floor: float, align: int) -> set[int]:
    """Every number of nodes that valid widths can remove."""
    found = {0}
    for row in rows:
        whole = len(row.scores)
        least = least_width(row, floor, align)
        gone = {whole - w for w in range(least, whole + 1) if is_valid(row, w, align)}
        found = {total + row.cost * n for total in found for n in gone}
    return found


def worst_of_each_block(row: Row, keep: Sequence[bool]) -> bool:
    """Whether every block lost the same number of channels, and each its worst by (score, channel)."""
    width = len(row.scores) // row.divisor
    blocks = [range(start, start + width) for start in range(0, len(row.scores), width)]
    gone = [{c for c in block if not keep[c]} for block in blocks]
    ranked = [sorted(block, key=lambda c: (row.scores[c], c)) for block in blocks]
    same = {len(block) for block in gone}
    return len(same) == 1 and all(set(r[: len(g)]) == g for r, g in zip(ranked, gone, strict=True))


def walk_steps(rows: Sequence[Row], target: int, floor: float, align: int) -> dict[str, list[bool]]:
    """Shrink, again and again, the group whose next valid width costs the worst channels and still fits."""
    keep = {row.name: [True] * len(row.scores) for row in rows}
    while True:
        left = target - removed(rows, keep)
        steps = [
            (mean, g, gone) for g, row in enumerate(rows) for mean, gone in next_step(row, keep, floor, align)
        ]
        fitting = [step for step in steps if rows[step[1]].cost * len(step[2]) <= left]
        if not fitting:
            return keep
        _, g, gone = min(fitting)
        for channel in gone:
            keep[rows[g].name][channel] = False


def next_step(
    row: Row, keep: Mapping[str, Sequence[bool]], floor: float, align: int
) -> list[tuple[float, list[int]]]:
    """The mean score and the channels that the next smaller valid width costs, if there is one."""
    kept = keep[row.name]
    least = least_width(row, floor, align)
    smaller = [w for w in range(least, sum(kept)) if is_valid(row, w, align) and w % row.divisor == 0]
    if not smaller:
        return []
    each = (sum(kept) - max(smaller)) // row.divisor
    width = len(row.scores) // row.divisor
    gone: list[int] = []
    for start in range(0, len(row.scores), width):
        alive = [c for c in range(start, start + width) if kept[c]]
        gone += sorted(alive, key=lambda c: (row.scores[c], c))[:each]
    return [(sum(row.scores[c] for c in gone) / len(gone), gone)]
