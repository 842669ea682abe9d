"""The other story: train with a method of pruning, then write, prove, measure and report what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from structprune import trainer
from structprune.budget import Budget, Plan
from structprune.channels import ChannelGroups
from structprune.choose import Scoring
from structprune.criteria import needed
from structprune.delivery import (
    Clock,
    CutNetwork,
    Run,
    check_finite,
    count,
    judged,
    measured_both,
    proof_inputs,
    report_of,
    write_report,
    written_and_proven,
)
from structprune.layers import node_layers, out_width
from structprune.limits import fraction_of_nodes
from structprune.masks import collapsed
from structprune.proofs import require
from structprune.report import Count, Training
from structprune.request import Learned, Lesson, Outcome, Request, Say, Tools
from structprune.scores import Scores
from structprune.surgery import weight_entries
from structprune.trainer import Session, Trained

RESUMED = 1.05
"""How much longer a training must have been than this process for it to count as resumed."""


def train(lesson: Lesson, tools: Tools | None = None, say: Say = lambda _: None) -> Learned:
    """Train a network with a method of pruning; nothing is written but the session's checkpoint.

    Args:
        lesson: what and how.
        tools: takes the energy, where the lesson is measured.
        say: told what happens next.

    Raises:
        TargetUnreachableError: the target can't be met.
        ProofFailedError: a cut is not what was meant.
        InputError: the network, the data or the checkpoint can't be used.
    """
    check_finite(lesson.session.model)
    metered = tools.metered() if tools and lesson.measure else nullcontext()
    start = time.perf_counter()
    with metered as meter:
        trained = trainer.train(lesson.session, lesson.resume, say)
    if meter is not None and trained.seconds > RESUMED * (time.perf_counter() - start):
        meter.joules, meter.how = None, "of a training that was resumed only the last stretch was metered"
    return Learned(lesson, trained, meter)


def deliver(learned: Learned, folder: Path, tools: Tools | None = None, say: Say = lambda _: None) -> Outcome:
    """Write what was trained into an empty folder, prove it, measure it and report.

    Args:
        learned: what :func:`train` gave.
        folder: an empty folder, which the caller puts in place or throws away.
        tools: exports and measures; without them neither happens.
        say: told what happens next.

    Raises:
        ProofFailedError: a proof failed.
    """
    lesson, trained = learned.lesson, learned.trained
    session = lesson.session
    request = _as_request(lesson)
    inputs = proof_inputs(request.samples, session.seed)
    run = Run(request, folder, tools, say, Clock(say, {"train": trained.seconds}), list(lesson.notes), inputs)
    with run.clock.step("evaluate", "taking the test accuracy"):
        accuracy = judged(lesson.judge, trained.model)
    groups = _untraced(session.model) if trained.groups is None else trained.groups
    unit = session.method.unit or "nodes"
    budget = Budget(session.remove, unit, session.floor, session.align)
    plan = trained.plan or Plan({}, budget, trained.removed)
    cut = CutNetwork(groups, plan, Scores({}, session.method.score), trained.model, trained.proof)
    run.notes.extend(_about_training(lesson, trained))
    of_cuts = [trained.proof] if trained.proof else []
    require(of_cuts)
    proofs = (*of_cuts, *written_and_proven(run, cut, collapsed(trained.masks)))
    report = report_of(run, cut, proofs, None, measured_both(run, cut.small), learned.meter)
    report = replace(report, **_of_training(lesson, trained, accuracy))
    write_report(report, folder)
    return Outcome(trained.model, plan, cut.scores, report, groups)


def _untraced(model: nn.Module) -> ChannelGroups:
    """Groups of a network that can't be traced: its nodes are those of all of its layers."""
    return ChannelGroups((), (), {name: out_width(layer) for name, layer in node_layers(model)}, ())


def _as_request(lesson: Lesson) -> Request:
    """What writing, proving and measuring want to know of a training."""
    session = lesson.session
    return Request(
        model=session.model,
        example=session.example,
        limits=() if session.method.unit == "weights" else (fraction_of_nodes(session.remove),),
        samples=session.samples,
        scoring=session.scoring(trained=True, cuts=0) if session.method.unit else Scoring("random"),
        name=lesson.network,
        trained_why="it was trained here",
        architecture=lesson.architecture,
        export=lesson.export,
        measure=lesson.measure,
    )


def _of_training(lesson: Lesson, trained: Trained, accuracy: float) -> dict[str, Any]:
    """What a report of a training says differently."""
    session = lesson.session
    said: dict[str, Any] = {
        "method": session.name,
        "trained": True,
        "training": _training(lesson, trained, accuracy),
        **inputs_of_score(session),
    }
    if trained.masks:
        said["weights"] = _masked_count(session, trained)
    return said


def inputs_of_score(session: Session) -> dict[str, Any]:
    """Fields of the report on what a method's score was taken on, where that is not the training's images."""
    needs = needed(session.method.score) if session.method.unit else []
    if needs and all(need.noise != "never" for need in needs):
        return {"data": f"noise of the shape of {session.samples.how}"}
    if all(need.inputs != "own" for need in needs):  # SynFlow's one input is all ones
        return {"samples": 0, "data": "no inputs"}
    return {}


def _about_training(lesson: Lesson, trained: Trained) -> Iterator[str]:
    detection = trained.detection
    if detection is not None and detection.fired_after is None:
        yield f"the detector never fired; the cut came at the latest epoch, {detection.latest}"
    if trained.masks:
        yield "weights are masked, zeros in dense layers: the network is not faster than the dense one"
    if gone := collapsed(trained.masks):
        yield f"{len(gone)} layers keep no weight at all: {', '.join(gone[:5])}"
    epochs = len(trained.log)
    if epochs != lesson.session.epochs:
        yield f"trained for {epochs} epochs, as the published code does, not for {lesson.session.epochs}"


def _training(lesson: Lesson, trained: Trained, accuracy: float) -> Training:
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


def _recipe(lesson: Lesson) -> str:
    """The recipe's name with what is in force of it."""
    session, recipe = lesson.session, lesson.session.recipe
    processes = f", {session.crew.size} processes" if session.crew.size > 1 else ""
    layout = ", channels last" if session.channels_last else ""
    return (
        f"{lesson.recipe}: {recipe.kind}, peak rate {recipe.lr:g}, batches of {recipe.batch_size}, "
        f"{session.precision}{layout}{processes}"
    )


def _masked_count(session: Session, trained: Trained) -> Count:
    entries = weight_entries(session.model)
    kept = sum(int(torch.count_nonzero(keep)) for keep in trained.masks.values())
    return count(entries, kept, session.remove)
