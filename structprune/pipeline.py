"""The story: gate, score, select, shrink, prove, fine-tune, export, prove again, measure, report.

The module is not called ``compress``, since a submodule of that name would shadow the public function.
Exporting and measuring are handed in, so that the core needs neither.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from structprune import render
from structprune.batch_norm import take_statistics
from structprune.budget import Budget, Plan
from structprune.channels import ChannelGroups, channel_groups
from structprune.checkpoint import save_weights_and_plan, widths_of
from structprune.choose import Samples, Scoring, choose
from structprune.environment import hardware, software
from structprune.errors import InputError
from structprune.proofs import LEAST_SPREAD, closed_gates, reloaded, require, signature
from structprune.report import Accuracy, Count, Measurement, Proof, Report, to_json
from structprune.scores import Scores
from structprune.sources.architecture import Architecture
from structprune.surgery import shrink, weight_entries, widths
from structprune.trial import trusted

Say = Callable[[str], None]
PROOF_INPUTS = 8


class Measured(Protocol):
    """What measuring gives back."""

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """In the order in which they were taken."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be measured, and why."""


class Meter(Protocol):
    """Energy that was spent."""

    joules: float


class Tools(Protocol):
    """What the package ``exporters`` does for the pipeline."""

    def export(self, model: nn.Module, example: tuple[Tensor, ...], path: Path) -> Any:
        """Write an ONNX file; what comes back tells ``exporter``, ``opset`` and ``fallback``."""

    def check(self, model: nn.Module, path: Path, inputs: tuple[Tensor, ...]) -> Proof:
        """Compare a module with its ONNX file."""

    def count_flops(self, model: nn.Module, example: tuple[Tensor, ...]) -> int:
        """Count the multiply-adds of one input."""

    def metered(self) -> AbstractContextManager[Meter]:
        """Take the energy of what happens inside."""

    def measure(
        self,
        dense: nn.Module,
        pruned: nn.Module,
        example: tuple[Tensor, ...],
        files: tuple[Path, Path],
        say: Say,
    ) -> Measured:
        """Measure both networks, given as modules and as ONNX files."""

    def break_even(self, spent_joules: float, dense_joules: float, pruned_joules: float) -> float | None:
        """Return after how many inferences the energy spent is earned back."""


@dataclass(frozen=True)
class Judge:
    """How the accuracy is taken.

    Attributes:
        evaluate: top-1 of a network, on images that neither score nor train.
        images: how many these are.
        how: which these are, in words.
    """

    evaluate: Callable[[nn.Module], float]
    images: int
    how: str


@dataclass(frozen=True)
class Request:
    """What is to be compressed, and how.

    Attributes:
        model: the network; it is never changed.
        example: positional inputs with a batch dimension, on the network's device.
        budget: how much goes.
        samples: what scores.
        scoring: how.
        name: of the network, for the report.
        trained_why: how ``scoring.trained`` was decided.
        architecture: how to rebuild the network by name, or None.
        judge: takes the accuracy, or None without data.
        finetune: trains the shrunk network in place, or None.
        export: whether to write and prove an ONNX file.
        measure: whether to measure.
        notes: what a reader of the report must know.
    """

    model: nn.Module
    example: tuple[Tensor, ...]
    budget: Budget
    samples: Samples
    scoring: Scoring
    name: str
    trained_why: str
    architecture: Architecture | None = None
    judge: Judge | None = None
    finetune: Callable[[nn.Module], None] | None = None
    export: bool = True
    measure: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What compressing gives.

    Attributes:
        model: the shrunk network, a plain module in evaluation mode.
        plan: what it kept.
        scores: what that was chosen by.
        report: everything that was found out.
        groups: the groups of the dense network.
    """

    model: nn.Module
    plan: Plan
    scores: Scores
    report: Report
    groups: ChannelGroups


@dataclass
class _Clock:
    """Wall time by step."""

    say: Say
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, words: str) -> Iterator[None]:
        self.say(words)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


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
    clock = _Clock(say)
    model = request.model
    check_finite(model)
    inputs = _proof_inputs(request)
    with tools.metered() if tools and request.measure else nullcontext() as meter:
        with clock.step("trace", "finding coupled channels"):
            groups = trusted(model, channel_groups(model, request.example), request.example)
        with clock.step("score", "scoring"):
            plan, scores = choose(
                model, groups, request.example, request.samples, request.scoring, request.budget, say
            )
        with clock.step("cut", "cutting"):
            small = shrink(model, groups, plan).eval()
        with clock.step("prove", "proving the cut"):
            proofs = [closed_gates(model, small, groups, plan, inputs)]
            require(proofs)
        accuracy = _judged_after_finetuning(request, small, clock)
    with clock.step("write", "writing and reading back"):
        _write_network(request, folder, small, plan)
        unpruned = model if request.architecture is None else None
        proofs.append(reloaded(small, folder, inputs, unpruned))
    notes = list(request.notes)
    if tools and request.export:
        with clock.step("export", "exporting to ONNX"):
            proofs.append(export_proven(small, folder / "model.onnx", inputs, tools, notes))
    proofs.append(signature(model, small, inputs))
    require(proofs)
    measured: Sequence[Measurement] = ()
    if tools and request.measure:
        with clock.step("measure", "measuring"):
            measured = _measure(request, small, folder, tools, say, notes)
    report = Report(
        method=request.scoring.score,
        model=request.name,
        seed=request.scoring.seed,
        **_counts(request, groups, small, plan, tools),
        widths=widths(model, small),
        protected=groups.protected,
        samples=sum(len(batch) for batch in request.samples.batches),
        draws=request.scoring.draws if "ntk_sap" in request.scoring.score.replace("-", "_") else None,
        trained=request.scoring.trained,
        trained_why=request.trained_why,
        data=request.samples.how,
        proofs=tuple(proofs),
        accuracy=accuracy,
        measurements=tuple(measured),
        seconds=clock.seconds,
        break_even=_break_even(tools, meter, measured),
        notes=tuple(notes),
        software=software(),
        hardware=hardware(next(model.parameters()).device),
    )
    write_report(report, folder)
    return Outcome(small, plan, scores, report, groups)


def check_finite(model: nn.Module) -> None:
    """Refuse a network with NaN or infinite parameters or buffers.

    Raises:
        InputError: naming the first.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{name} holds NaN or infinite values; give a network with finite weights")


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.json`` and ``report.md``."""
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    (folder / "report.md").write_text(render.markdown(report), encoding="utf-8")


def _proof_inputs(request: Request) -> tuple[Tensor, ...]:
    """The first scoring inputs; random ones already where there are no data."""
    columns = zip(*(batch.inputs for batch in request.samples.batches), strict=True)
    return tuple(torch.cat(column)[:PROOF_INPUTS] for column in columns)


def _judged_after_finetuning(request: Request, small: nn.Module, clock: _Clock) -> Accuracy | None:
    judge = request.judge
    if judge is not None:
        with clock.step("evaluate", "taking the accuracy"):
            before, cut = judge.evaluate(request.model), judge.evaluate(small)
    if request.finetune is not None:
        with clock.step("finetune", "fine-tuning"):
            request.finetune(small)
    if judge is None:
        return None
    finetuned = judge.evaluate(small) if request.finetune is not None else None
    return Accuracy(before, cut, finetuned, judge.images, judge.how)


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
    on_cpu, inputs = copy.deepcopy(small).cpu().float(), tuple(x.cpu() for x in inputs)
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


def _with_statistics_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    varied = copy.deepcopy(model)
    statistics = take_statistics(
        varied, lambda buffers, batch: functional_call(varied, dict(buffers), batch), [inputs]
    )
    varied.load_state_dict(statistics, strict=False)
    return varied


def _measure(
    request: Request, small: nn.Module, folder: Path, tools: Tools, say: Say, notes: list[str]
) -> Sequence[Measurement]:
    dense = request.model
    with TemporaryDirectory(prefix="structprune-") as scratch:
        files = (Path(scratch, "dense.onnx"), folder / "model.onnx")
        tools.export(copy.deepcopy(dense).cpu().float(), tuple(x.cpu() for x in request.example), files[0])
        if not request.export:
            files = (files[0], Path(scratch, "pruned.onnx"))
            tools.export(copy.deepcopy(small).cpu(), tuple(x.cpu() for x in request.example), files[1])
        measured = tools.measure(dense, small, request.example, files, say)
    notes += measured.notes
    return measured.measurements


def _counts(
    request: Request, groups: ChannelGroups, small: nn.Module, plan: Plan, tools: Tools | None
) -> dict[str, Any]:
    dense, asked = request.model, request.budget
    gone = sum(
        cost
        for group in groups
        for cost, keep in zip(group.costs, plan.keep[group.name].tolist(), strict=True)
        if not keep
    )
    one = tuple(x[:1] for x in request.example)
    return {
        "nodes": count(groups.nodes, groups.nodes - gone, asked.remove if asked.unit == "nodes" else None),
        "weights": count(weight_entries(dense), weight_entries(small)),
        "parameters": count(*(sum(p.numel() for p in net.parameters()) for net in (dense, small))),
        "flops": count(tools.count_flops(dense, one), tools.count_flops(small, one)) if tools else None,
    }


def count(before: int, after: int, asked: float | None = None) -> Count:
    """Return how much is gone."""
    return Count(before, after, 1 - after / before if before else 0.0, asked)


def _break_even(tools: Tools | None, meter: Meter | None, measured: Sequence[Measurement]) -> float | None:
    energy = next((m for m in measured if m.name == "energy"), None)
    if tools is None or meter is None or energy is None:
        return None
    return tools.break_even(meter.joules, energy.dense.median / 1000, energy.pruned.median / 1000)
