"""What becomes of a network that was cut: written, loaded again, exported, proven, measured, reported."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from structprune.channels import ChannelGroups
from structprune.errors import InputError
from structprune.models.architecture import FACTORY
from structprune.models.results import save_weights_and_plan, widths_of
from structprune.nn.batch_norm import collect_statistics, evaluating
from structprune.nn.layers import counted_down
from structprune.nn.reinit import reinitialised
from structprune.proofs.comparison.gap import LEAST_SPREAD
from structprune.proofs.modes import varies
from structprune.proofs.reloaded import reloaded
from structprune.proofs.signature import signature
from structprune.proofs.verdict import require
from structprune.pruning.budget import Plan
from structprune.report.clock import Clock
from structprune.report.data import LimitResult, Measurement, Proof
from structprune.report.protocols import Say, Tools
from structprune.scoring.samples import Samples, random_like
from structprune.scoring.scores import Scores
from structprune.workflows.request import Judge, Subject

PROOF_INPUTS = 8


@dataclass(frozen=True)
class Run:
    """Surroundings of one run: what it is about, where it writes and what it uses.

    Attributes:
        subject: the dense network and what is to be made of it.
        folder: an empty folder that results are written into.
        tools: what exports and measures, or None.
        say: told what happens next.
        clock: takes the time of every step.
        inputs: what outputs are compared on.
    """

    subject: Subject
    folder: Path
    tools: Tools | None
    say: Say
    clock: Clock
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class CutNetwork:
    """A network that was cut, before anything else is done to it.

    Attributes:
        groups: of the dense network.
        plan: what it keeps of them.
        scores: what that was chosen by.
        small: the network.
        proof: that it is what closed gates say, or None where there is none yet.
        limits: what was reached of each limit.
        notes: what a reader of the report must know.
    """

    groups: ChannelGroups
    plan: Plan
    scores: Scores
    small: nn.Module
    proof: Proof | None
    limits: tuple[LimitResult, ...] = ()
    notes: tuple[str, ...] = ()


def written_and_proven(
    run: Run, cut: CutNetwork, dead: Sequence[str] = ()
) -> tuple[list[Proof], tuple[str, ...]]:
    """Write the network, load it again, export it, and prove each; notes come with the proofs.

    Outputs of a network with dead layers may be constant by right: then equal constants count.
    """
    subject, small = run.subject, cut.small
    notes: tuple[str, ...] = ()
    with run.clock.step("write", "writing and reading back"):
        _write_network(subject, run.folder, cut)
        # A factory is code that load() runs only for those who say so; they may as well bring the network.
        named = subject.architecture is not None and subject.architecture.zoo != FACTORY
        unpruned = None if named else subject.model
        proofs = [reloaded(small, run.folder, run.inputs, unpruned)]
    if run.tools and subject.export:
        with run.clock.step("export", "exporting to ONNX"):
            proof, notes = export_proven(small, run.folder / "model.onnx", run.inputs, run.tools)
            proofs.append(proof)
    proofs.append(signature(subject.model, small, run.inputs))
    proofs = [_of_constants(proof, dead) for proof in proofs]
    require(proofs)
    return proofs, notes


def _of_constants(proof: Proof, dead: Sequence[str]) -> Proof:
    collapsed_to_a_constant = proof.spread is not None and proof.spread <= LEAST_SPREAD
    if proof.passed or not dead or not collapsed_to_a_constant or proof.tolerance is None:
        return proof
    how = f"{proof.how}; the outputs are constant, since {len(dead)} layers keep no weight"
    return replace(proof, passed=proof.error < proof.tolerance, how=how)


def _write_network(subject: Subject, folder: Path, cut: CutNetwork) -> None:
    save_weights_and_plan(
        folder,
        cut.small,
        cut.plan,
        subject.architecture,
        tuple(subject.example[0].shape[1:]),
        dense_widths=widths_of(subject.model, counted_down(cut.small)),
        name=subject.name,
    )


def export_proven(
    small: nn.Module, path: Path, inputs: tuple[Tensor, ...], tools: Tools
) -> tuple[Proof, tuple[str, ...]]:
    """Write the ONNX file and prove it; notes come with the proof.

    Where the network's outputs collapse under its own batch-norm statistics, the file is compared all the
    same, and what counts is a second file, of a copy with the statistics of the inputs.
    """
    on_cpu, inputs = copy.deepcopy(small).cpu().float(), _in_float32(inputs)
    written = tools.export(on_cpu, inputs, path)
    return _proven_file(on_cpu, path, inputs, tools, written), tuple(_about_file(small, written))


def _about_file(small: nn.Module, written: Any) -> Iterator[str]:
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in small.parameters()):
        yield "the network is exported in float32"
    if written.fallback:
        yield f"ONNX written by the {written.exporter} exporter: {written.fallback}"


def _proven_file(
    on_cpu: nn.Module, path: Path, inputs: tuple[Tensor, ...], tools: Tools, written: Any
) -> Proof:
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
    statistics = collect_statistics(
        varied, lambda buffers, batch: functional_call(varied, dict(buffers), batch), [inputs]
    )
    varied.load_state_dict(statistics, strict=False)
    return varied


# Copies whose outputs vary where the network's own don't, in the order in which they are tried.
VARIED: Mapping[str, Callable[[nn.Module, tuple[Tensor, ...]], nn.Module]] = {
    "the inputs' batch-norm statistics": _with_statistics_of,
    "redrawn weights": lambda model, inputs: _with_statistics_of(
        reinitialised(model, lambda net: varies(net, inputs)), inputs
    ),
}


def measured_both(run: Run, small: nn.Module) -> tuple[Sequence[Measurement], tuple[str, ...]]:
    """Measure the dense and the shrunk network, each as a module and as an ONNX file; notes come with it."""
    subject, tools = run.subject, run.tools
    if tools is None or not subject.measure:
        return (), ()
    example = _in_float32(subject.example)
    with run.clock.step("measure", "measuring"), TemporaryDirectory(prefix="structprune-") as scratch:
        dense, pruned = Path(scratch, "dense.onnx"), run.folder / "model.onnx"
        tools.export(copy.deepcopy(subject.model).cpu().float(), example, dense)
        if not subject.export:
            pruned = Path(scratch, "pruned.onnx")
            tools.export(copy.deepcopy(small).cpu().float(), example, pruned)
        measured = tools.measure(
            subject.model,
            small,
            subject.example,
            (dense, pruned),
            lambda name: run.say(f"measuring {name}"),
        )
    return measured.measurements, measured.notes


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
