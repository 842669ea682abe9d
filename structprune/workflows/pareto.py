"""The sweep of a budget along one ranking: what every depth keeps, costs and takes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from structprune.choices import CHOICES
from structprune.environment import hardware, software
from structprune.errors import UsageError
from structprune.hardware import Layers, picking
from structprune.hardware.profile import note_choosing
from structprune.limits.bisection import first
from structprune.limits.ranking import Ranking
from structprune.pruning.budget import select
from structprune.pruning.surgery import shrink
from structprune.reconstruction import rechoose, reconstruct
from structprune.report.clock import Clock
from structprune.report.data import Measurement
from structprune.report.protocols import Say, Tools
from structprune.report.sweep import ParetoSweep, Point, marked
from structprune.scoring.score import order
from structprune.scoring.scores import Scores
from structprune.workflows.compress import device_layers_of, groups_of
from structprune.workflows.outputs import Run, check_finite, judged, proof_inputs
from structprune.workflows.request import Request

SECONDS = 1.5
"""Time that is spent on each network."""


def sweep(request: Request, points: int, by: str, tools: Tools, say: Say = lambda _: None) -> ParetoSweep:
    """Cut at several depths along one ranking, and time all networks in turn.

    Args:
        request: the network and how it is scored; its budget's floor and alignment hold at every depth.
        points: how many networks, the dense one and the deepest cut among them.
        by: what is to fall in even steps: ``nodes``, ``weights``, ``params`` or ``flops``.
        tools: export and measure.
        say: told what happens next.

    Returns:
        The points, deeper and deeper, those marked that no other dominates.

    Raises:
        UsageError: there is nothing to sweep so.
        InputError: the network or the data can't be used.
    """
    _check(points, by)
    check_finite(request.model)
    with TemporaryDirectory(prefix="structprune-") as scratch:
        inputs = proof_inputs(request.samples, request.scoring.seed)
        run = Run(request, Path(scratch), tools, say, Clock(say), inputs)
        groups = groups_of(run, request)
        with run.clock.step("score", "scoring"):
            scores = order(request.model, groups, request.samples, request.scoring)
        layers = device_layers_of(request, groups)
        ranking = Ranking(
            request.model,
            groups,
            scores.values,
            request.budget(),
            request.example,
            tools.count_flops,
            picking(layers) or select,
        )
        with run.clock.step("sweep"):
            depths = _depths(ranking, points, by)
            taken, accuracies = _taken(run, request, ranking, depths, tools)
        found = [_point(ranking, *row) for row in zip(depths, taken, accuracies, strict=True)]
        notes = (*request.notes, *_about_choosing(scores, layers))
        return _front(run, request, by, found, taken[0], notes)


def _check(points: int, by: str) -> None:
    if points < 2:
        raise UsageError(f"{points} points make no sweep; give 2 or more")
    if by not in CHOICES["by"]:
        raise UsageError(f"can't sweep by {by!r}; known: {', '.join(CHOICES['by'])}")


def _depths(ranking: Ranking, points: int, by: str) -> list[int]:
    """Return depths between which the quantity falls in even steps, as far as the cuts' own steps allow."""
    most = ranking.most
    if by == "nodes":
        return sorted({ranking.settle(round(most * i / (points - 1))) for i in range(points)})

    def left(depth: int) -> float:
        found = getattr(ranking.counts(depth), by)
        if found is None:
            raise UsageError("multiply-adds of this network can't be counted; sweep by nodes or params")
        return float(found)

    dense, least = left(0), left(most)
    wanted = [dense + (least - dense) * i / (points - 1) for i in range(points - 1)]
    between = [first(lambda depth, most_left=x: left(depth) <= most_left, 0, most) for x in wanted]  # type: ignore[misc]
    return sorted({ranking.settle(depth) for depth in (*between, most)})


def _taken(
    run: Run, request: Request, ranking: Ranking, depths: Sequence[int], tools: Tools
) -> tuple[Sequence[Measurement], list[float | None]]:
    """Export every network, take its accuracy where there are data, and time all of them in turn."""
    files, accuracies = [], []
    example = tuple(x.cpu().float() if x.is_floating_point() else x.cpu() for x in request.example)
    for i, depth in enumerate(depths, start=1):
        run.say(f"cutting, point {i} of {len(depths)}")
        network = _network(request, ranking, depth)
        accuracies.append(judged(request.judge, network) if request.judge else None)
        files.append(run.folder / f"{depth}.onnx")
        tools.export(network.cpu().float(), example, files[-1])
    run.say(f"timing {len(files)} networks in turn")
    return tools.compare("batch_time", files, example, SECONDS), accuracies


def _network(request: Request, ranking: Ranking, depth: int) -> nn.Module:
    """Return the network at a depth as compressing to there leaves it: channels chosen anew, and mended."""
    dense, correction, groups = request.model, request.correction, ranking.groups
    if not depth:
        return copy.deepcopy(dense).eval()
    if correction is None:
        return ranking.network(depth)
    plan = rechoose(dense, groups, ranking.plan(depth), correction)
    return reconstruct(dense, shrink(dense, groups, plan).eval(), groups, plan, correction).model


def _point(ranking: Ranking, depth: int, taken: Measurement, accuracy: float | None) -> Point:
    counts = ranking.counts(depth)
    middle = taken.pruned.median
    return Point(
        nodes=depth / max(ranking.groups.nodes, 1),
        parameters=counts.params,
        flops=counts.flops,
        latency=middle,
        fast=float(taken.extra.get("pruned_p5", middle)),
        slow=float(taken.extra.get("pruned_p95", middle)),
        ratio=taken.ratio,
        kept_score=ranking.kept_score(depth),
        accuracy=accuracy,
    )


def _judged_how(request: Request) -> str | None:
    if request.judge is None:
        return None
    mended = f"; each cut mended by {request.correction.method}" if request.correction else ""
    return f"{request.judge.how}{mended}"


def _about_choosing(scores: Scores, layers: Layers | None) -> Iterator[str]:
    if scores.taken:
        yield str(scores.taken)
    if layers is not None:
        yield note_choosing(layers.profile)


def _front(
    run: Run, request: Request, by: str, found: Sequence[Point], timed: Measurement, notes: tuple[str, ...]
) -> ParetoSweep:
    return ParetoSweep(
        model=request.name,
        method=request.scoring.score,
        by=by,
        align="auto" if request.profile else request.align,
        batch=timed.batch,
        threads=timed.threads,
        how=timed.how,
        points=marked(found),
        data=request.samples.how,
        accuracy_how=_judged_how(request),
        notes=notes,
        seconds=run.clock.seconds,
        software=software(),
        hardware=hardware(next(request.model.parameters()).device),
    )
