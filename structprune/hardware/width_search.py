"""Finding widths: a Lagrangian descent over the groups, then exchanges that keep the number of nodes.

Time over kept score is a fraction; it is made small by making time - price x score small at a price that
follows the best fraction found (Dinkelbach, Management Science 13(7), 1967). A second price, of a node, is
bisected until as many nodes stay as must. Everything is deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from structprune.hardware.cost_model import Choice, Problem
from structprune.hardware.layer_times import Numbers

SWEEPS = 6
BISECTIONS = 14
EXCHANGES = 200
TRIED = 8
"""Exchanges that look best and are tried before a search ends: what two groups gain is not just the sum."""

DEAREST = 7
"""Powers of two that the price of score goes through, until enough of it stays."""

SHARPER = 6
_CLEAR = 1e-9


@dataclass(frozen=True)
class Bounds:
    """What a choice has to hold.

    Attributes:
        nodes: how many stay.
        kept: the least score that stays.
        us: the most microseconds.
    """

    nodes: int
    kept: float
    us: float


@dataclass(frozen=True)
class Move:
    """Other options for one or two groups."""

    gain: float
    groups: tuple[int, ...]
    options: tuple[int, ...]


def search(problem: Problem, start: Choice, bounds: Bounds) -> Choice:
    """Return the choice with the least time for the score that it keeps, among those within the bounds.

    Args:
        problem: the groups' options and the layers' times.
        start: a choice within the bounds.
        bounds: what has to hold.
    """
    best = start
    factor, failed = 1.0, 0.0
    for _ in range(DEAREST):
        found = _refined(problem, start, best, bounds, factor)
        if _holds(problem, found, bounds):
            best = _better(problem, best, found)
            break
        failed, factor = factor, factor * 2
    for _ in range(SHARPER if failed else 1):
        # Between a price at which too little score stays, and one at which enough does.
        middle = (failed * factor) ** 0.5 if failed else factor
        found = _refined(problem, start, best, bounds, middle)
        if _holds(problem, found, bounds):
            best, factor = _better(problem, best, found), middle
        else:
            failed = middle
    # What a price leaves of the bounds on score, exchanges may use up: those of a lower price, then its own.
    for part in (failed, 1.0):
        found = _exchanged(problem, best, bounds, part * _price(problem, best), strict=True)
        best = _better(problem, best, found)
    return best


def _refined(problem: Problem, start: Choice, best: Choice, bounds: Bounds, factor: float) -> Choice:
    """Solve for one price of score, from the start and from the best so far; the cheaper one comes back."""
    price = factor * _price(problem, best)
    begins = (start, _rounded(problem, start))
    found = [
        _exchanged(problem, begin, bounds, price)
        for begin in (*(_descended(problem, begin, bounds.nodes, price) for begin in begins), begins[1], best)
    ]
    exact = [choice for choice in found if problem.nodes(choice) == bounds.nodes]
    return min(exact, key=lambda choice: problem.us(choice) - price * problem.kept(choice))


def _rounded(problem: Problem, start: Choice) -> Choice:
    """Give each group the width nearest to its own that fills blocks on either side of a layer.

    Where only both sides together make a layer fast, no change of a single group shows it.
    """
    block = problem.layers.profile.kernels["3x3"].block
    choice = start.copy()
    for g, options in enumerate(problem.options):
        filled_K = np.flatnonzero(options.width % (block * options.divisor) == 0)
        if len(filled_K):
            off_K = np.abs(options.width[filled_K] - options.width[start[g]])
            choice[g] = filled_K[int(np.argmin(off_K))]
    return choice


def _price(problem: Problem, choice: Choice) -> float:
    return problem.us(choice) / max(problem.kept(choice), _CLEAR)


def _holds(problem: Problem, choice: Choice, bounds: Bounds) -> bool:
    return (
        problem.nodes(choice) == bounds.nodes
        and problem.kept(choice) >= bounds.kept
        and problem.us(choice) <= bounds.us
    )


def _better(problem: Problem, best: Choice, found: Choice) -> Choice:
    return found if _price(problem, found) < _price(problem, best) * (1 - _CLEAR) else best


def _descended(problem: Problem, start: Choice, nodes: int, price: float) -> Choice:
    """Bisect the price of a node until about as many stay as must; the nearest choice comes back."""
    scale = 10 * problem.us(start) / max(nodes, 1)
    low, high = -scale, scale
    best, best_off = start, np.inf
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        choice = _swept(problem, start, price, middle)
        off = problem.nodes(choice) - nodes
        if abs(off) < best_off:
            best, best_off = choice, abs(off)
        if off == 0:
            break
        low, high = (middle, high) if off > 0 else (low, middle)
    return best


def _swept(problem: Problem, start: Choice, price: float, node: float) -> Choice:
    """Give each group in turn its best width among those of the others, until none changes."""
    choice, widths_G = start.copy(), problem.widths(start)
    for _ in range(SWEEPS):
        changed = False
        for g, options in enumerate(problem.options):
            us_K = problem.layers.along(g, widths_G, options.width)
            value_K = us_K - price * options.kept + node * options.nodes
            k = int(np.argmin(value_K))
            if value_K[k] < value_K[choice[g]] - _CLEAR:
                choice[g], widths_G[g], changed = k, options.width[k], True
        if not changed:
            break
    return choice


def _exchanged(problem: Problem, start: Choice, bounds: Bounds, price: float, strict: bool = False) -> Choice:
    """Bring the nodes to their number, then change two groups at a time while that helps.

    Args:
        problem: the groups' options and the layers' times.
        start: any choice.
        bounds: the number of nodes; where ``strict``, all of them.
        price: of score.
        strict: whether only choices within the bounds count.
    """
    choice = start
    for _ in range(EXCHANGES):
        missing = bounds.nodes - problem.nodes(choice)
        moved = (_moved(choice, move) for move in _moves(problem, choice, missing, price))
        better = next(
            (
                after
                for after in moved
                if missing
                or (
                    _improves(problem, choice, after, price)
                    and (not strict or _holds(problem, after, bounds))
                )
            ),
            None,
        )
        if better is None:
            break
        choice = better
    return choice


def _improves(problem: Problem, before: Choice, after: Choice, price: float) -> bool:
    old, new = (problem.us(choice) - price * problem.kept(choice) for choice in (before, after))
    return new < old - _CLEAR * max(abs(old), 1.0)


def _moved(choice: Choice, move: Move) -> Choice:
    after = choice.copy()
    after[list(move.groups)] = move.options
    return after


def _moves(problem: Problem, choice: Choice, missing: int, price: float) -> Iterator[Move]:
    """Yield the moves that change the number of nodes by ``missing`` and look best, the best first."""
    table = _table(problem, choice, price)
    found: list[Move] = []
    for change, firsts in table.items():
        for gain, g, k in firsts:
            if change == missing:
                found.append(Move(gain, (g,), (k,)))
            for other_gain, other, other_k in table.get(missing - change, ()):
                if other > g:
                    found.append(Move(gain + other_gain, (g, other), (k, other_k)))
    found.sort(key=lambda move: (move.gain, move.groups, move.options))
    yield from (move for move in found[:TRIED] if missing or move.gain < -_CLEAR)


Entry = tuple[float, int, int]


def _table(problem: Problem, choice: Choice, price: float, most: int = 3) -> dict[int, list[Entry]]:
    """Return change in nodes -> the best single changes that make it: what they cost, group and option."""
    widths_G = problem.widths(choice)
    changes, values, groups, numbers = [], [], [], []
    for g, options in enumerate(problem.options):
        here = choice[g]
        us_K = problem.layers.along(g, widths_G, options.width)
        value_K: Numbers = (us_K - us_K[here]) - price * (options.kept - options.kept[here])
        others = np.arange(len(value_K)) != here
        changes.append((options.nodes - options.nodes[here])[others])
        values.append(value_K[others])
        numbers.append(np.arange(len(value_K))[others])
        groups.append(np.full(others.sum(), g))
    change_N, value_N, group_N, number_N = map(np.concatenate, (changes, values, groups, numbers))
    table: dict[int, list[Entry]] = {}
    for i in np.lexsort((group_N, value_N, change_N)):
        row = table.setdefault(int(change_N[i]), [])
        if len(row) < most:
            row.append((float(value_N[i]), int(group_N[i]), int(number_N[i])))
    return table
