"""What becomes of a network that was cut: written, loaded again, exported, proven, measured, reported."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from structprune import render
from structprune.batch_norm import evaluating, take_statistics
from structprune.budget import Plan
from structprune.channels import ChannelGroups
from structprune.checkpoint import save_weights_and_plan, widths_of
from structprune.choose import loss_of
from structprune.comparison.gap import LEAST_SPREAD
from structprune.criteria import needed
from structprune.criteria.ntk_sap import draw_count
from structprune.environment import hardware, software
from structprune.errors import InputError
from structprune.layers import counted_down
from structprune.limits import nodes_of
from structprune.proofs import reloaded, require, signature, varies
from structprune.redraw import begun_again
from structprune.report import Accuracy, Count, Measurement, Met, Proof, Report, to_json
from structprune.request import Judge, Meter, Request, Say, Tools
from structprune.samples import Samples, random_like
from structprune.scores import Scores
from structprune.sources.architecture import FACTORY
from structprune.surgery import weight_entries, widths

PROOF_INPUTS = 8


@dataclass
class Clock:
    """Wall time by step."""

    say: Say
    seconds: dict[str, float] = field(default_factory=dict)
    inside: float = 0.0

    @contextmanager
    def step(self, name: str, words: str | None = None) -> Iterator[None]:
        """Take the time of a step without those inside it, and say its words before it begins."""
        if words is not None:
            self.say(words)
        start, around = time.perf_counter(), self.inside
        self.inside = 0.0
        yield
        whole = time.perf_counter() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + whole - self.inside, 3)
        self.inside = around + whole


@dataclass(frozen=True)
class Run:
    """One run's surroundings: where it writes, what it uses, and what it has noted so far."""

    request: Request
    folder: Path
    tools: Tools | None
    say: Say
    clock: Clock
    notes: list[str]
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class CutNetwork:
    """A network that was cut, before anything else is done to it."""

    groups: ChannelGroups
    plan: Plan
    scores: Scores
    small: nn.Module
    proof: Proof | None
    limits: tuple[Met, ...] = ()


def written_and_proven(run: Run, cut: CutNetwork, dead: Sequence[str] = ()) -> list[Proof]:
    """Write the network, load it again, export it, and prove each.

    Outputs of a network with dead layers may be constant by right: then equal constants count.
    """
    request, small = run.request, cut.small
    with run.clock.step("write", "writing and reading back"):
        _write_network(request, run.folder, cut)
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


def _write_network(request: Request, folder: Path, cut: CutNetwork) -> None:
    save_weights_and_plan(
        folder,
        cut.small,
        cut.plan,
        request.architecture,
        tuple(request.example[0].shape[1:]),
        dense_widths=widths_of(request.model, counted_down(cut.small)),
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
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in small.parameters()):
        notes.append("the network is exported in float32")
    written = tools.export(on_cpu, inputs, path)
    if written.fallback:
        notes.append(f"ONNX written by the {written.exporter} exporter: {written.fallback}")
    proof = tools.check(on_cpu, path, inputs, written)
    if proof.passed or proof.spread is None or proof.spread > LEAST_SPREAD:
        return proof
    itself = proof.tolerance is not None and proof.error < proof.tolerance
    counted = proof
    for words, vary in VARIED.items():
        with TemporaryDirectory(prefix="structprune-") as scratch:
            varied, twin = vary(on_cpu, inputs), Path(scratch, path.name)
            counted = tools.check(varied, twin, inputs, tools.export(varied, inputs, twin))
        counted = replace(counted, how=f"{counted.how}; on a copy with {words}")
        if counted.passed or counted.spread is None or counted.spread > LEAST_SPREAD:
            break
    how = f"{counted.how}, the file itself: {proof.error:.1e}"
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


# Copies whose outputs vary where the network's own don't, in the order in which they are tried.
VARIED: Mapping[str, Callable[[nn.Module, tuple[Tensor, ...]], nn.Module]] = {
    "the inputs' batch-norm statistics": _with_statistics_of,
    "redrawn weights": lambda model, inputs: _with_statistics_of(
        begun_again(model, lambda net: varies(net, inputs)), inputs
    ),
}


def measured_both(run: Run, small: nn.Module) -> Sequence[Measurement]:
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


def report_of(
    run: Run,
    cut: CutNetwork,
    proofs: tuple[Proof, ...],
    accuracy: Accuracy | None,
    measured: Sequence[Measurement],
    meter: Meter | None,
) -> Report:
    """Put together what is known of a run."""
    request, scoring = run.request, run.request.scoring
    return Report(
        method=scoring.score,
        model=request.name,
        seed=scoring.seed,
        **_counts(run, cut),
        widths=widths(request.model, cut.small),
        protected=cut.groups.protected,
        samples=_samples(request, cut.scores),
        draws=_draws(request, cut.scores),
        trained=scoring.trained,
        trained_why=request.trained_why,
        data=request.samples.how,
        proofs=proofs,
        accuracy=accuracy,
        measurements=tuple(measured),
        seconds=run.clock.seconds,
        break_even=_break_even(run.tools, meter, measured),
        limits=cut.limits,
        notes=(*run.notes, *_scored_on(cut.scores), *_unmetered(meter)),
        software=software(),
        hardware=hardware(next(request.model.parameters()).device),
        control_flow=cut.groups.control_flow,
        loss=loss_of(request.samples, scoring),
    )


def _samples(request: Request, scores: Scores) -> int:
    return scores.taken.samples if scores.taken else sum(len(batch) for batch in request.samples.batches)


def _draws(request: Request, scores: Scores) -> int | None:
    scoring = request.scoring
    if not any(each.weight_draws for each in needed(scoring.score)):
        return None
    if scores.draws:
        return scores.draws
    return draw_count(request.samples.batches, scoring.draws)


def _counts(run: Run, cut: CutNetwork) -> dict[str, Any]:
    dense, small, groups = run.request.model, cut.small, cut.groups
    left = groups.nodes - nodes_gone(groups, cut.plan)
    one = tuple(x[:1] for x in run.request.example)
    flops = _flops(run, (dense, small), one)
    return {
        "nodes": count(groups.nodes, left, nodes_of(run.request.limits)),
        "weights": count(weight_entries(dense), weight_entries(small)),
        "parameters": count(*(sum(p.numel() for p in net.parameters()) for net in (dense, small))),
        "flops": flops and count(*flops),
    }


def _flops(run: Run, networks: Sequence[nn.Module], one: tuple[Tensor, ...]) -> list[int] | None:
    if run.tools is None:
        return None
    try:
        return [run.tools.count_flops(net, one) for net in networks]
    except Exception as error:  # an optional figure, of a forward pass that may raise anything
        run.notes.append(f"multiply-adds were not counted: {error}")
        return None


def nodes_gone(groups: ChannelGroups, plan: Plan) -> int:
    """Return how many nodes a plan removes."""
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


def _scored_on(scores: Scores) -> Iterator[str]:
    if scores.taken is not None:
        yield str(scores.taken)


def _unmetered(meter: Meter | None) -> Iterator[str]:
    if meter is not None and meter.joules is None:
        yield f"what compressing took in energy, and when it pays for itself, is not known: {meter.how}"


def _break_even(tools: Tools | None, meter: Meter | None, measured: Sequence[Measurement]) -> float | None:
    energy = next((m for m in measured if m.name == "energy"), None)
    if tools is None or meter is None or meter.joules is None or energy is None:
        return None
    return tools.break_even(meter.joules, energy.dense.median / 1000, energy.pruned.median / 1000)


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.json`` and ``report.md``."""
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    (folder / "report.md").write_text(render.markdown(report), encoding="utf-8")


def judged(judge: Judge, model: nn.Module) -> float:
    """Return the accuracy of a network in evaluation mode.

    Raises:
        InputError: it is not between 0 and 1.
    """
    with evaluating(model):
        found = judge.evaluate(model)
    try:
        accuracy = float(found)
    except (TypeError, ValueError, RuntimeError):
        accuracy = math.nan
    if not 0 <= accuracy <= 1:
        raise InputError(f"evaluate gave {found!r}; expected an accuracy from 0 to 1")
    return accuracy


def check_finite(
    model: nn.Module, cause: str = "", advice: str = "give a network with finite weights"
) -> None:
    """Refuse a network without parameters, or with NaN or infinite ones.

    Args:
        model: the network.
        cause: what made it so, in words that lead to a parameter's name.
        advice: what to do.

    Raises:
        InputError: naming the first.
    """
    if not any(True for _ in model.parameters()):
        raise InputError("the network has no parameters, so there is nothing to cut")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            found = f"{cause} {name} with" if cause else f"{name} holds"
            raise InputError(f"{found} NaN or infinite values; {advice}")


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
