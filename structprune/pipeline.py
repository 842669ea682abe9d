"""The story: gate, score, select, shrink, prove, fine-tune, export, prove again, measure, report.

The module is not called ``compress``, since a submodule of that name would shadow the public function.
Exporting and measuring are handed in, so that the core needs neither.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from structprune import render, trainer
from structprune.batch_norm import evaluating, take_statistics
from structprune.budget import Budget, Plan
from structprune.channels import ChannelGroups, channel_groups
from structprune.checkpoint import save_weights_and_plan, widths_of
from structprune.choose import Scoring, choose
from structprune.criteria.ntk_sap import draw_count
from structprune.environment import hardware, software
from structprune.errors import InputError
from structprune.layers import out_width, weighted_layers
from structprune.masks import collapsed
from structprune.proofs import LEAST_SPREAD, closed_gates, reloaded, require, signature
from structprune.report import Accuracy, Count, Measurement, Proof, Report, Training, to_json
from structprune.request import Judge, Learned, Lesson, Meter, Outcome, Request, Say, Tools
from structprune.samples import Samples, random_like
from structprune.scores import Scores
from structprune.sources.architecture import FACTORY
from structprune.surgery import shrink, weight_entries, widths
from structprune.trainer import Session, Trained
from structprune.trial import trusted

PROOF_INPUTS = 8
# In float64 a convolution lays out all of its patches, for the whole batch.
CLOSED_INPUTS = 4
TRIAL_INPUTS = 3


@dataclass
class _Clock:
    """Wall time by step."""

    say: Say
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, words: str | None = None) -> Iterator[None]:
        if words is not None:
            self.say(words)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


@dataclass(frozen=True)
class _Run:
    """One run's surroundings: where it writes, what it uses, and what it has noted so far."""

    request: Request
    folder: Path
    tools: Tools | None
    say: Say
    clock: _Clock
    notes: list[str]
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Cut:
    """A network that was cut, before anything else is done to it."""

    groups: ChannelGroups
    plan: Plan
    scores: Scores
    small: nn.Module
    proof: Proof | None


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
    run = _Run(request, folder, tools, say, _Clock(say), list(request.notes), inputs)
    with tools.metered() if tools and request.measure else nullcontext() as meter:
        cut = _cut(run)
        accuracy = _judged_after_finetuning(run, cut.small)
    proofs = (*([cut.proof] if cut.proof else []), *_written_and_proven(run, cut))
    measured = _measured(run, cut.small)
    report = _report(run, cut, proofs, accuracy, measured, meter)
    write_report(report, folder)
    return Outcome(cut.small, cut.plan, cut.scores, report, cut.groups)


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
    with metered as meter:
        trained = trainer.train(lesson.session, lesson.resume, say)
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
    run = _Run(
        request, folder, tools, say, _Clock(say, {"train": trained.seconds}), list(lesson.notes), inputs
    )
    with run.clock.step("evaluate", "taking the test accuracy"):
        accuracy = _judged(lesson.judge, trained.model)
    groups = trained.groups or _untraced(session.model)
    plan = trained.plan or Plan({}, replace(request.budget, remove=session.remove), trained.removed)
    cut = _Cut(groups, plan, Scores({}, session.method.score), trained.model, trained.proof)
    run.notes.extend(_about_training(lesson, trained))
    proofs = (
        *([trained.proof] if trained.proof else []),
        *_written_and_proven(run, cut, collapsed(trained.masks)),
    )
    report = _report(run, cut, proofs, None, _measured(run, cut.small), learned.meter)
    report = replace(report, **_of_training(lesson, trained, accuracy))
    write_report(report, folder)
    return Outcome(trained.model, plan, cut.scores, report, groups)


def _untraced(model: nn.Module) -> ChannelGroups:
    """Groups of a network that can't be traced: its nodes are those of all of its layers."""
    return ChannelGroups((), (), {name: out_width(layer) for name, layer in weighted_layers(model)}, ())


def _as_request(lesson: Lesson) -> Request:
    """What writing, proving and measuring want to know of a training."""
    session = lesson.session
    return Request(
        model=session.model,
        example=session.example,
        budget=Budget(session.remove, session.method.unit or "nodes", session.floor, session.align),
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
    }
    if "data" not in session.method.needs and "ntk_sap" not in session.method.score:
        said |= {"samples": 0, "data": "no inputs"}
    if trained.masks:
        said["weights"] = _masked_count(session, trained)
    return said


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


def _cut(run: _Run) -> _Cut:
    """Gate, score, select, shrink, and prove the cut before anything is built on it."""
    request, clock = run.request, run.clock
    model, example = request.model, request.example
    with clock.step("trace", "finding coupled channels"):
        few = tuple(x[:TRIAL_INPUTS] for x in run.inputs)
        groups = trusted(model, channel_groups(model, example), few)
    with clock.step("score"):
        plan, scores = choose(model, groups, request.samples, request.scoring, request.budget, run.say)
    with clock.step("cut", "cutting"):
        small = shrink(model, groups, plan).eval()
    run.notes.extend(_missed(groups, plan))
    with clock.step("prove", "proving the cut"):
        some = tuple(x[:CLOSED_INPUTS] for x in run.inputs)
        proof = closed_gates(model, small, groups, plan, some)
        require([proof])
    return _Cut(groups, plan, scores, small, proof)


def _draws(request: Request) -> int | None:
    scoring = request.scoring
    if "ntk_sap" not in scoring.score.replace("-", "_"):
        return None
    return draw_count(request.samples.batches, scoring.draws)


def _missed(groups: ChannelGroups, plan: Plan) -> Iterator[str]:
    """Say so where no set of steps hits the target to the node."""
    target = round(plan.budget.remove * groups.nodes)
    if gone := target - _nodes_gone(groups, plan):
        yield f"{gone} of {target} nodes asked for stay, since channels leave only in larger steps"


def _written_and_proven(run: _Run, cut: _Cut, dead: Sequence[str] = ()) -> list[Proof]:
    """Write the network, load it again, export it, and prove each.

    Outputs of a network with dead layers may be constant by right: then equal constants count.
    """
    request, small = run.request, cut.small
    with run.clock.step("write", "writing and reading back"):
        _write_network(request, run.folder, small, cut.plan)
        # A factory is code that load() runs only for those who say so; they may as well bring the network.
        named = request.architecture is not None and request.architecture.zoo != FACTORY
        unpruned = None if named else request.model
        proofs = [reloaded(small, run.folder, run.inputs, unpruned)]
    if run.tools and request.export:
        with run.clock.step("export", "exporting to ONNX"):
            path = run.folder / "model.onnx"
            proofs.append(export_proven(small, path, run.inputs, run.tools, run.notes))
    proofs.append(signature(request.model, small, run.inputs))
    proofs = [_of_constants(proof, dead) for proof in proofs]
    require(proofs)
    return proofs


def _of_constants(proof: Proof, dead: Sequence[str]) -> Proof:
    collapsed_to_a_constant = proof.spread is not None and proof.spread <= LEAST_SPREAD
    if proof.passed or not dead or not collapsed_to_a_constant or proof.tolerance is None:
        return proof
    how = f"{proof.how}; the outputs are constant, since {len(dead)} layers keep no weight"
    return replace(proof, passed=proof.error < proof.tolerance, how=how)


def _report(
    run: _Run,
    cut: _Cut,
    proofs: tuple[Proof, ...],
    accuracy: Accuracy | None,
    measured: Sequence[Measurement],
    meter: Meter | None,
) -> Report:
    request, scoring = run.request, run.request.scoring
    return Report(
        method=scoring.score,
        model=request.name,
        seed=scoring.seed,
        **_counts(run, cut),
        widths=widths(request.model, cut.small),
        protected=cut.groups.protected,
        samples=sum(len(batch) for batch in request.samples.batches),
        draws=_draws(request),
        trained=scoring.trained,
        trained_why=request.trained_why,
        data=request.samples.how,
        proofs=proofs,
        accuracy=accuracy,
        measurements=tuple(measured),
        seconds=run.clock.seconds,
        break_even=_break_even(run.tools, meter, measured),
        notes=tuple(run.notes),
        software=software(),
        hardware=hardware(next(request.model.parameters()).device),
    )


def check_finite(model: nn.Module) -> None:
    """Refuse a network without parameters, or with NaN or infinite ones.

    Raises:
        InputError: naming the first.
    """
    if not any(True for _ in model.parameters()):
        raise InputError("the network has no parameters, so there is nothing to cut")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{name} holds NaN or infinite values; give a network with finite weights")


def _check_samples(samples: Samples) -> None:
    for x in (x for batch in samples.batches for x in batch.inputs):
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise InputError("the scoring inputs hold NaN or infinite values; give finite data")


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.json`` and ``report.md``."""
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    (folder / "report.md").write_text(render.markdown(report), encoding="utf-8")


def proof_inputs(samples: Samples, seed: int) -> tuple[Tensor, ...]:
    """The first scoring inputs, topped up with random ones where there are too few to compare outputs."""
    generator = torch.Generator().manual_seed(seed)
    leading: list[tuple[Tensor, ...]] = []
    while len(leading) < len(samples.batches) and sum(len(x[0]) for x in leading) < PROOF_INPUTS:
        leading.append(samples.batches[len(leading)].inputs)
    inputs = []
    for column in zip(*leading, strict=True):
        own = torch.cat(column)[:PROOF_INPUTS]
        inputs.append(torch.cat([own, random_like(own, PROOF_INPUTS - len(own), generator)]))
    return tuple(inputs)


def _judged_after_finetuning(run: _Run, small: nn.Module) -> Accuracy | None:
    request, judge = run.request, run.request.judge
    if judge is not None:
        with run.clock.step("evaluate", "taking the accuracy"):
            before, cut = _judged(judge, request.model), _judged(judge, small)
    if request.finetune is not None:
        with run.clock.step("finetune", "fine-tuning"):
            request.finetune(small)
            small.eval()
    if judge is None:
        return None
    finetuned = _judged(judge, small) if request.finetune is not None else None
    return Accuracy(before, cut, finetuned, judge.images, judge.how)


def _judged(judge: Judge, model: nn.Module) -> float:
    with evaluating(model):
        accuracy = float(judge.evaluate(model))
    if not math.isfinite(accuracy):
        raise InputError(f"evaluate gave {accuracy}; expected a finite accuracy")
    return accuracy


def _write_network(request: Request, folder: Path, small: nn.Module, plan: Plan) -> None:
    save_weights_and_plan(
        folder,
        small,
        plan,
        request.architecture,
        tuple(request.example[0].shape[1:]),
        dense_widths=widths_of(request.model),
        name=request.name,
    )


def export_proven(
    small: nn.Module, path: Path, inputs: tuple[Tensor, ...], tools: Tools, notes: list[str]
) -> Proof:
    """Write the ONNX file and prove it.

    Where the network's outputs collapse under its own batch-norm statistics, the file is compared all the
    same, and what counts is a second file, of a copy with the statistics of the inputs.
    """
    on_cpu, inputs = copy.deepcopy(small).cpu().float(), _in_float32(inputs)
    if next(small.parameters()).dtype != torch.float32:
        notes.append("the network is exported in float32")
    written = tools.export(on_cpu, inputs, path)
    if written.fallback:
        notes.append(f"ONNX written by the {written.exporter} exporter: {written.fallback}")
    proof = tools.check(on_cpu, path, inputs)
    if proof.passed or proof.spread is None or proof.spread > LEAST_SPREAD:
        return proof
    with TemporaryDirectory(prefix="structprune-") as scratch:
        varied = _with_statistics_of(on_cpu, inputs)
        twin = Path(scratch, path.name)
        tools.export(varied, inputs, twin)
        counted = tools.check(varied, twin, inputs)
    itself = proof.tolerance is not None and proof.error < proof.tolerance
    how = (
        f"{counted.how}; on a copy with the inputs' batch-norm statistics, the file itself: {proof.error:.1e}"
    )
    return replace(counted, passed=counted.passed and itself, how=how)


def _in_float32(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.cpu().float() if x.is_floating_point() else x.cpu() for x in inputs)


def _with_statistics_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    varied = copy.deepcopy(model)
    statistics = take_statistics(
        varied, lambda buffers, batch: functional_call(varied, dict(buffers), batch), [inputs]
    )
    varied.load_state_dict(statistics, strict=False)
    return varied


def _measured(run: _Run, small: nn.Module) -> Sequence[Measurement]:
    """Measure the dense and the shrunk network, each as a module and as an ONNX file."""
    request, tools = run.request, run.tools
    if tools is None or not request.measure:
        return ()
    example = _in_float32(request.example)
    with run.clock.step("measure", "measuring"), TemporaryDirectory(prefix="structprune-") as scratch:
        dense, pruned = Path(scratch, "dense.onnx"), run.folder / "model.onnx"
        tools.export(copy.deepcopy(request.model).cpu().float(), example, dense)
        if not request.export:
            pruned = Path(scratch, "pruned.onnx")
            tools.export(copy.deepcopy(small).cpu().float(), example, pruned)
        measured = tools.measure(
            request.model,
            small,
            request.example,
            (dense, pruned),
            lambda name: run.say(f"measuring {name}"),
        )
    run.notes.extend(measured.notes)
    return measured.measurements


def _counts(run: _Run, cut: _Cut) -> dict[str, Any]:
    dense, small, groups, asked = run.request.model, cut.small, cut.groups, run.request.budget
    left = groups.nodes - _nodes_gone(groups, cut.plan)
    one = tuple(x[:1] for x in run.request.example)
    flops = _flops(run, (dense, small), one)
    return {
        "nodes": count(groups.nodes, left, asked.remove if asked.unit == "nodes" else None),
        "weights": count(weight_entries(dense), weight_entries(small)),
        "parameters": count(*(sum(p.numel() for p in net.parameters()) for net in (dense, small))),
        "flops": flops and count(*flops),
    }


def _flops(run: _Run, networks: Sequence[nn.Module], one: tuple[Tensor, ...]) -> list[int] | None:
    if run.tools is None:
        return None
    try:
        return [run.tools.count_flops(net, one) for net in networks]
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # an optional figure
        run.notes.append(f"multiply-adds were not counted: {error}")
        return None


def _nodes_gone(groups: ChannelGroups, plan: Plan) -> int:
    return sum(
        cost
        for group in groups
        if group.name in plan.keep
        for cost, keep in zip(group.costs, plan.keep[group.name].tolist(), strict=True)
        if not keep
    )


def count(before: int, after: int, asked: float | None = None) -> Count:
    """Return how much is gone."""
    return Count(before, after, 1 - after / before if before else 0.0, asked)


def _break_even(tools: Tools | None, meter: Meter | None, measured: Sequence[Measurement]) -> float | None:
    energy = next((m for m in measured if m.name == "energy"), None)
    if tools is None or meter is None or energy is None:
        return None
    return tools.break_even(meter.joules, energy.dense.median / 1000, energy.pruned.median / 1000)
