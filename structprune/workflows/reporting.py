"""Reports, put together from what happened: of a compression or of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from structprune import report as render
from structprune.channels import ChannelGroups
from structprune.environment import hardware, software
from structprune.limits.parse import nodes_of
from structprune.pruning.budget import Plan
from structprune.pruning.counts import weight_entries, widths
from structprune.pruning.masks import collapsed
from structprune.report.data import Accuracy, Count, Measurement, Proof, Report
from structprune.report.protocols import Meter, Tools
from structprune.report.serialise import to_json
from structprune.report.training import Training
from structprune.scoring.criteria import needed
from structprune.scoring.criteria.ntk_sap import draw_count
from structprune.scoring.samples import Samples
from structprune.scoring.score import Scoring, loss_of
from structprune.scoring.scores import Scores
from structprune.training import Session, Trained
from structprune.workflows.outputs import CutNetwork, Run
from structprune.workflows.request import Request, TrainRequest, TrainResult


@dataclass(frozen=True)
class Evidence:
    """What was found out about a network that is written.

    Attributes:
        proofs: in the order in which they were made.
        measurements: in the order in which they were taken.
        meter: energy that making it took, or None.
        notes: what a reader must know.
    """

    proofs: tuple[Proof, ...]
    measurements: Sequence[Measurement]
    meter: Meter | None
    notes: tuple[str, ...]


def of_compression(
    run: Run, request: Request, cut: CutNetwork, evidence: Evidence, accuracy: Accuracy | None
) -> Report:
    """Report of a compression; ``accuracy`` is that before and after, or None without data."""
    scoring, samples = request.scoring, request.samples
    return Report(
        **_common(run, cut, evidence, nodes_of(request.limits)),
        method=scoring.score,
        seed=scoring.seed,
        samples=cut.scores.taken.samples if cut.scores.taken else _count_of(samples),
        draws=_draws(scoring, samples, cut.scores),
        trained=scoring.trained,
        trained_why=request.trained_why,
        data=samples.how,
        accuracy=accuracy,
        limits=cut.limits,
        loss=loss_of(samples, scoring),
    )


def of_training(
    run: Run, learned: TrainResult, cut: CutNetwork, evidence: Evidence, accuracy: float
) -> Report:
    """Report of a training with a method of pruning in it; ``accuracy`` is that on the test images."""
    lesson, trained, session = learned.lesson, learned.trained, learned.lesson.session
    unit = session.method.unit
    scoring = session.scoring(trained=True, cuts=0) if unit else Scoring("random", seed=session.seed)
    fields = _common(run, cut, evidence, None if unit == "weights" else session.remove)
    if trained.masks:
        fields["weights"] = _masked_count(session, trained)
    return Report(
        **fields,
        method=session.name,
        seed=scoring.seed,
        **inputs_of_score(session),
        draws=_draws(scoring, session.samples, cut.scores),
        trained=True,
        trained_why="it was trained here",
        accuracy=None,
        loss=loss_of(session.samples, scoring),
        training=_training(lesson, trained, accuracy),
    )


def _common(run: Run, cut: CutNetwork, evidence: Evidence, nodes: float | None) -> dict[str, Any]:
    """Fields that every report has, given the fraction of nodes that was asked for."""
    subject, groups = run.subject, cut.groups
    networks = (subject.model, cut.small)
    flops, not_counted = _flops(run.tools, networks, tuple(x[:1] for x in subject.example))
    return {
        "model": subject.name,
        "nodes": count(groups.nodes, groups.nodes - nodes_gone(groups, cut.plan), nodes),
        "weights": count(*map(weight_entries, networks)),
        "parameters": count(*(sum(p.numel() for p in net.parameters()) for net in networks)),
        "flops": flops,
        "widths": widths(*networks),
        "protected": groups.protected,
        "proofs": evidence.proofs,
        "measurements": tuple(evidence.measurements),
        "seconds": run.clock.seconds,
        "break_even": _break_even(run.tools, evidence),
        "notes": (*evidence.notes, *not_counted, *_scored_on(cut.scores), *_unmetered(evidence.meter)),
        "software": software(),
        "hardware": hardware(next(subject.model.parameters()).device),
        "control_flow": groups.control_flow,
    }


# ---- counts


def count(before: int, after: int, asked: float | None = None) -> Count:
    """How much is gone, beside the fraction that was asked for."""
    return Count(before, after, 1 - after / before if before else 0.0, asked)


def nodes_gone(groups: ChannelGroups, plan: Plan) -> int:
    """How many nodes a plan removes."""
    return sum(
        cost
        for group in groups
        if group.name in plan.keep
        for cost, keep in zip(group.costs, plan.keep[group.name].tolist(), strict=True)
        if not keep
    )


def _flops(
    tools: Tools | None, networks: tuple[nn.Module, nn.Module], one: tuple[Tensor, ...]
) -> tuple[Count | None, tuple[str, ...]]:
    """Multiply-adds of one input before and after, or a note on why they are not known."""
    if tools is None:
        return None, ()
    try:
        return count(*(tools.count_flops(net, one) for net in networks)), ()
    except Exception as error:  # an optional figure, of a forward pass that may raise anything
        return None, (f"multiply-adds were not counted: {error}",)


def _masked_count(session: Session, trained: Trained) -> Count:
    entries = weight_entries(session.model)
    kept = sum(int(torch.count_nonzero(keep)) for keep in trained.masks.values())
    return count(entries, kept, session.remove)


# ---- what scored


def inputs_of_score(session: Session) -> dict[str, Any]:
    """Number and nature of the inputs that a method's score was taken on."""
    samples = session.samples
    needs = needed(session.method.score) if session.method.unit else []
    if needs and all(need.noise != "never" for need in needs):
        return {"samples": _count_of(samples), "data": f"noise of the shape of {samples.how}"}
    if all(need.inputs != "own" for need in needs):  # SynFlow's one input is all ones
        return {"samples": 0, "data": "no inputs"}
    return {"samples": _count_of(samples), "data": samples.how}


def _count_of(samples: Samples) -> int:
    return sum(len(batch) for batch in samples.batches)


def _draws(scoring: Scoring, samples: Samples, scores: Scores) -> int | None:
    if not any(need.weight_draws for need in needed(scoring.score)):
        return None
    return scores.draws or draw_count(samples.batches, scoring.draws)


def _scored_on(scores: Scores) -> Iterator[str]:
    if scores.taken is not None:
        yield str(scores.taken)


# ---- energy


def _unmetered(meter: Meter | None) -> Iterator[str]:
    if meter is not None and meter.joules is None:
        yield f"what compressing took in energy, and when it pays for itself, is not known: {meter.how}"


def _break_even(tools: Tools | None, evidence: Evidence) -> float | None:
    meter = evidence.meter
    energy = next((m for m in evidence.measurements if m.name == "energy"), None)
    if tools is None or meter is None or meter.joules is None or energy is None:
        return None
    return tools.break_even(meter.joules, energy.dense.median / 1000, energy.pruned.median / 1000)


# ---- a training


def _training(lesson: TrainRequest, trained: Trained, accuracy: float) -> Training:
    session = lesson.session
    best = trained.best or (None, None)
    return Training(
        task=lesson.task,
        recipe=_recipe(lesson),
        epochs=len(trained.log),
        test=accuracy,
        test_images=lesson.judge.images,
        test_how=lesson.judge.how,
        best_epoch=best[1],
        best_validation=best[0],
        validation_images=len(session.validation.images) if session.validation else 0,
        log=trained.log,
        events=trained.events,
        detection=trained.detection,
        seconds=trained.seconds,
        collapsed=collapsed(trained.masks),
        masked=bool(trained.masks),
    )


def _recipe(lesson: TrainRequest) -> str:
    """The recipe's name with what is in force of it."""
    session, recipe = lesson.session, lesson.session.recipe
    processes = f", {session.crew.size} processes" if session.crew.size > 1 else ""
    layout = ", channels last" if session.channels_last else ""
    return (
        f"{lesson.recipe}: {recipe.kind}, peak rate {recipe.lr:g}, batches of {recipe.batch_size}, "
        f"{session.precision}{layout}{processes}"
    )


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.json`` and ``report.md``."""
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    (folder / "report.md").write_text(render.markdown(report), encoding="utf-8")
