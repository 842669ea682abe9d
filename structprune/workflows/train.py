"""The other story: train with a method of pruning, then write, prove, measure and report what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from torch import nn

from structprune import training as trainer
from structprune.channels import ChannelGroups
from structprune.nn.layers import node_layers, out_width
from structprune.proofs.verdict import require
from structprune.pruning.budget import Budget, Plan
from structprune.pruning.masks import collapsed
from structprune.report.clock import Clock
from structprune.report.protocols import Say, Tools
from structprune.scoring.scores import Scores
from structprune.training import Session, Trained
from structprune.workflows.outputs import (
    CutNetwork,
    Run,
    check_finite,
    judged,
    measured_both,
    proof_inputs,
    written_and_proven,
)
from structprune.workflows.reporting import Evidence, of_training, write_report
from structprune.workflows.request import Outcome, TrainRequest, TrainResult

RESUMED = 1.05
"""How much longer a training must have been than this process for it to count as resumed."""


def train(lesson: TrainRequest, tools: Tools | None = None, say: Say = lambda _: None) -> TrainResult:
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
    return TrainResult(lesson, trained, meter)


def deliver(
    learned: TrainResult, folder: Path, tools: Tools | None = None, say: Say = lambda _: None
) -> Outcome:
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
    inputs = proof_inputs(session.samples, session.seed)
    run = Run(lesson, folder, tools, say, Clock(say, {"train": trained.seconds}), inputs)
    with run.clock.step("evaluate", "taking the test accuracy"):
        accuracy = judged(lesson.judge, trained.model)
    cut = _cut_network(session, trained)
    proofs, about_files = written_and_proven(run, cut, collapsed(trained.masks))
    measured, about_measuring = measured_both(run, cut.small)
    notes = (*lesson.notes, *_about_training(lesson, trained), *about_files, *about_measuring)
    proofs = [cut.proof, *proofs] if cut.proof else proofs
    evidence = Evidence(tuple(proofs), measured, learned.meter, notes)
    report = of_training(run, learned, cut, evidence, accuracy)
    write_report(report, folder)
    return Outcome(trained.model, cut.plan, cut.scores, report, cut.groups)


def _cut_network(session: Session, trained: Trained) -> CutNetwork:
    """The network that a training left, as one that was cut.

    Raises:
        ProofFailedError: the last cut was not what was meant.
    """
    groups = _untraced(session.model) if trained.groups is None else trained.groups
    budget = Budget(session.remove, session.method.unit or "nodes", session.floor, session.align)
    plan = trained.plan or Plan({}, budget, trained.removed)
    require([trained.proof] if trained.proof else [])
    return CutNetwork(groups, plan, Scores({}, session.method.score), trained.model, trained.proof)


def _untraced(model: nn.Module) -> ChannelGroups:
    """Groups of a network that can't be traced: its nodes are those of all of its layers."""
    return ChannelGroups((), (), {name: out_width(layer) for name, layer in node_layers(model)}, ())


def _about_training(lesson: TrainRequest, trained: Trained) -> Iterator[str]:
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
