"""The story: gate, score, select, shrink, prove, mend, fine-tune, export, prove again, measure, report.

The module is not called ``compress``, since a submodule of that name would shadow the public function.
Exporting and measuring are handed in, so that the core needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups
from structprune.errors import InputError
from structprune.hardware import Layers, compare, device_layers, picking
from structprune.hardware.profile import note_choosing
from structprune.limits.within import within_limits
from structprune.proofs.closed_gates import CLOSED_INPUTS, closed_gates, unproven_group
from structprune.proofs.trial_cut import cuttable_groups
from structprune.proofs.verdict import require
from structprune.pruning.budget import Plan, select
from structprune.pruning.surgery import shrink
from structprune.reconstruction import reconstruct
from structprune.report.clock import Clock
from structprune.report.data import Accuracy
from structprune.report.protocols import Say, Tools
from structprune.scoring.samples import Samples
from structprune.scoring.scores import Scores
from structprune.workflows.int8 import with_int8
from structprune.workflows.outputs import (
    CutNetwork,
    Run,
    check_finite,
    judged,
    measured_both,
    proof_inputs,
    written_and_proven,
)
from structprune.workflows.reporting import Evidence, nodes_gone, of_compression, write_report
from structprune.workflows.request import Outcome, Request


def compress(
    request: Request, folder: Path, tools: Tools | None = None, say: Say = lambda _: None
) -> Outcome:
    """Compress a network and write the result into an empty folder.

    Args:
        request: what and how.
        folder: an empty folder, which the caller puts in place or throws away.
        tools: exports and measures; without them there is no ONNX file, no ONNX proof and no measurement.
        say: told what happens next.

    Raises:
        TargetUnreachableError: the budget can't be met.
        ProofFailedError: a proof failed.
        InputError: the network or the data can't be used.
    """
    check_finite(request.model)
    _check_samples(request.samples)
    inputs = proof_inputs(request.samples, request.scoring.seed)
    run = Run(request, folder, tools, say, Clock(say), inputs)
    with tools.metered() if tools and request.measure else nullcontext() as meter:
        raw = _cut(run, request)
        cut = _mended(run, request, raw)
        accuracy = _judged_after_finetuning(run, request, raw.small, cut.small)
    proofs, about_files = written_and_proven(run, cut)
    measured, about_measuring = measured_both(run, cut.small)
    notes = (*request.notes, *cut.notes, *about_files, *about_measuring)
    evidence = Evidence((*([cut.proof] if cut.proof else []), *proofs), measured, meter, notes)
    report = with_int8(run, request, of_compression(run, request, cut, evidence, accuracy))
    write_report(report, folder)
    return Outcome(cut.small, cut.plan, cut.scores, report, cut.groups)


def _cut(run: Run, request: Request) -> CutNetwork:
    """Gate, score, select, shrink, and prove the cut before anything is built on it.

    A group whose removal fails the proof, though its trial cut passed, is protected, and the rest chosen
    again.
    """
    groups = groups_of(run, request)
    while True:
        cut = _cut_of(run, request, groups)
        assert cut.proof is not None
        if cut.proof.passed or (culprit := unproven_group(*_proven(run, cut))) is None:
            break
        groups = groups.without({culprit: f"the proof of a cut of it failed: {cut.proof.how}"})
    require([cut.proof])
    whole = _whole(groups, cut.plan, request.profile is not None)
    return replace(cut, notes=(*_control_flow(groups), *cut.notes, *_missed(groups, cut.plan), *whole))


def _cut_of(run: Run, request: Request, groups: ChannelGroups) -> CutNetwork:
    """Cut to the least that keeps every limit, and prove that cut."""
    layers = device_layers_of(request, groups)
    choice, limits = within_limits(request, groups, run.tools, run.clock, picking(layers))
    plan, notes = choice.plan, choice.notes
    if layers is not None:
        notes = (*notes, *_aligned(layers, choice.scores, groups, plan))
    with run.clock.step("cut", "cutting"):
        small = shrink(request.model, groups, plan).eval()
    unproven = CutNetwork(groups, plan, choice.scores, small, None, limits, notes)
    with run.clock.step("prove", "proving the cut"):
        dense, groups, plan, some = _proven(run, unproven)
        return replace(unproven, proof=closed_gates(dense, small, groups, plan, some))


def _proven(run: Run, cut: CutNetwork) -> tuple[nn.Module, ChannelGroups, Plan, tuple[Tensor, ...]]:
    """What the proof of closed gates takes, but the cut network."""
    return run.subject.model, cut.groups, cut.plan, tuple(x[:CLOSED_INPUTS] for x in run.inputs)


def _control_flow(groups: ChannelGroups) -> Iterator[str]:
    """Say so where the network's code asks for sizes, values or its mode."""
    if flow := groups.control_flow:
        more = f" and {len(flow) - 3} more" if len(flow) > 3 else ""
        shown = "; ".join(map(str, flow[:3]))
        yield f"control flow: {shown}{more}; the proof closed_gates says what was tried"


def groups_of(run: Run, request: Request) -> ChannelGroups:
    """Groups of channels of the run's network that may leave."""
    with run.clock.step("trace", "finding coupled channels"):
        return cuttable_groups(request.model, request.example, run.inputs, request.scope)


def device_layers_of(request: Request, groups: ChannelGroups) -> Layers | None:
    """Return the layers by whose times widths are chosen, or None where no profile is given."""
    if request.profile is None:
        return None
    return device_layers(request.model, request.example, groups, request.profile)


def _mended(run: Run, request: Request, cut: CutNetwork) -> CutNetwork:
    """Mend the network, once the cut itself is proven."""
    if request.correction is None:
        return cut
    with run.clock.step("mend", "mending"):
        mended = reconstruct(request.model, cut.small, cut.groups, cut.plan, request.correction)
    return replace(cut, small=mended.model, notes=(*cut.notes, *([mended.note] if mended.note else [])))


def _missed(groups: ChannelGroups, plan: Plan) -> Iterator[str]:
    """Say so where no set of steps hits the target to the node."""
    target = round(plan.budget.remove * groups.nodes)
    if gone := target - nodes_gone(groups, plan):
        yield f"{gone} of {target} nodes asked for stay, since channels leave only in larger steps"


def _whole(groups: ChannelGroups, plan: Plan, aligned: bool) -> Iterator[str]:
    """Say so where layers that could be cut keep every channel, by the scores where no profile chose."""
    touched = {row.layer for g in groups if not plan.keep[g.name].all() for row in g.producers}
    offered = dict.fromkeys(row.layer for group in groups for row in group.producers)
    if plan.budget.remove and (whole := [layer for layer in offered if layer not in touched]):
        more = f" and {len(whole) - 3} more" if len(whole) > 3 else ""
        shown = ", ".join(whole[:3])
        since = "" if aligned else ", since those of others score lower"
        yield f"{len(whole)} layers keep every channel{since}: {shown}{more}"


def _aligned(layers: Layers, scores: Scores, groups: ChannelGroups, plan: Plan) -> Iterator[str]:
    """Say which device's profile chose the widths, and what that is to buy."""
    yield note_choosing(layers.profile)
    yield str(compare(layers, scores.values, groups, select(scores.values, groups, plan.budget), plan))


def _check_samples(samples: Samples) -> None:
    for x in (x for batch in samples.batches for x in batch.inputs):
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise InputError("the scoring inputs hold NaN or infinite values; give finite data")


def _judged_after_finetuning(run: Run, request: Request, raw: nn.Module, small: nn.Module) -> Accuracy | None:
    """Take the accuracy before, right after the cut, after mending and after fine-tuning."""
    judge = request.judge
    if judge is not None:
        with run.clock.step("evaluate", "taking the accuracy"):
            before, cut = judged(judge, request.model), judged(judge, raw)
            mended = None if small is raw else judged(judge, small)
    if request.finetune is not None:
        with run.clock.step("finetune", "fine-tuning"):
            request.finetune(small)
            small.eval()
            check_finite(small, "fine-tuning left", "try a lower learning rate")
    if judge is None:
        return None
    finetuned = judged(judge, small) if request.finetune is not None else None
    return Accuracy(before, cut, finetuned, judge.images, judge.how, mended)
