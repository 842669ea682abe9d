"""Proofs that what was cut is what was meant: each compares two networks that must compute the same.

The error of outputs a against b is max|a - b| / max|b|, and beside it max|a - b| / s, where s is the mean
standard deviation of b over the inputs. On an untrained network outputs collapse to a constant, against
which any absolute test passes; so a comparison counts only where s > 1e-3 max|b|, and where a network's own
outputs don't vary so, it is made again with batch-norm statistics of the inputs, then with redrawn weights.
"""

from __future__ import annotations

import copy
import math
import pickle
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from torch import Tensor, nn

from structprune.arithmetic import doubles_kept, exact_arithmetic, in_precision
from structprune.batch_norm import evaluating
from structprune.budget import Plan
from structprune.channels import ChannelGroups
from structprune.checkpoint import load
from structprune.comparison.gap import (
    IN_FLOAT32,
    IN_FLOAT64,
    LEAST_SPREAD,
    Bounds,
    Gap,
    Inputs,
    gap,
)
from structprune.comparison.influence import exposed
from structprune.comparison.lockstep import Difference, Pair, compare
from structprune.comparison.settings import HIDING, settings_of
from structprune.errors import ProofFailedError
from structprune.fresh_process import call_fresh
from structprune.gates import gate_channels, renormalised
from structprune.layers import batch_norms
from structprune.outputs import outputs_of
from structprune.redraw import begun_again
from structprune.report import Proof, ProofName
from structprune.surgery import shrink

CLOSED_INPUTS = 4
"""How many inputs closed gates are compared on: in float64 a convolution lays out patches for all of them."""


def varies(model: nn.Module, inputs: Inputs) -> bool:
    """Tell whether outputs vary enough over inputs to be compared, with batch statistics of these."""
    with torch.no_grad(), evaluating(model, "batch"):
        outputs = model(*(x.to(_device(model)) for x in inputs))
    return gap(outputs, outputs).counts


def closed_gates(
    dense: nn.Module, small: nn.Module, groups: ChannelGroups, plan: Plan, inputs: Inputs
) -> Proof:
    """Prove that the shrunk network is the dense one with the gates of the removed channels closed.

    In float64 where both networks fit into memory so, else in float32. Where batch norm has no statistics
    under which the outputs vary, both networks normalise with those of the inputs. Then fresh copies of both
    are called in other sizes, batches, scales and modes, in float32 and, where they seem to differ, in
    float64.

    Args:
        dense: the network before the cut.
        small: the network right after it.
        groups: the groups that were cut.
        plan: what they kept.
        inputs: at least 4 inputs, (N, ...).
    """
    proof = _base_proof(dense, small, groups, plan, inputs)
    return (
        _in_other_settings(proof, Pair(dense, groups, plan.keep, small), plan, inputs)
        if proof.passed
        else proof
    )


def unproven_group(dense: nn.Module, groups: ChannelGroups, plan: Plan, inputs: Inputs) -> str | None:
    """Name of a group without whose removal the proof of closed gates may hold.

    The last group of the shortest prefix of groups whose removal, by this plan, fails it; None where it fails
    with nothing removed, too, or since the cut network puts out a constant.

    Args:
        dense: the network before the cut.
        groups: its groups.
        plan: what is kept of each; the proof fails with all of it.
        inputs: as for :func:`closed_gates`.
    """

    def proof_of(count: int) -> Proof:
        opened = {g.name: torch.ones_like(plan.keep[g.name]) for g in groups.groups[count:]}
        prefix = replace(plan, keep={**plan.keep, **opened})
        return closed_gates(dense, shrink(dense, groups, prefix), groups, prefix, inputs)

    right, wrong = 0, len(groups)
    last = proof_of(wrong)
    if last.passed or _is_constant(last) or not proof_of(0).passed:  # a fault of no group's
        return None
    while wrong - right > 1:
        middle = (right + wrong) // 2
        right, wrong = (middle, wrong) if proof_of(middle).passed else (right, middle)
    return groups[wrong - 1].name


def _is_constant(proof: Proof) -> bool:
    return proof.spread is not None and proof.spread <= LEAST_SPREAD and math.isfinite(proof.error)


def _base_proof(
    dense: nn.Module, small: nn.Module, groups: ChannelGroups, plan: Plan, inputs: Inputs
) -> Proof:
    attempts = [(torch.float64, IN_FLOAT64), (torch.float32, IN_FLOAT32)][0 if _fits(dense) else 1 :]
    for dtype, bounds in attempts[:-1]:
        try:
            return _closed_gates(dense, small, groups, plan, inputs, dtype, bounds)
        except Exception:  # code that makes float32 values in its forward pass, or what comes below
            continue
    try:
        return _closed_gates(dense, small, groups, plan, inputs, *attempts[-1])
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a forward pass raises at widths that its code does not expect
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProofFailedError(
            f"proof closed_gates failed: the cut network does not run: {reason}"
        ) from error


def _in_other_settings(proof: Proof, pair: Pair, plan: Plan, inputs: Inputs) -> Proof:
    """The proof once both networks were called under every other setting, too, and on exposed groups."""
    settings = settings_of(copy.deepcopy(pair.dense), inputs, pair.groups.control_flow)
    rounds = exposed(pair.dense, pair.groups, settings).rounds
    untried: dict[str, str] = {}
    for each in rounds:
        cut = pair.cut if each.model is pair.dense else shrink(each.model, pair.groups, plan)
        comparison = compare(Pair(each.model, pair.groups, pair.keep, cut), each.settings)
        untried |= comparison.untried
        if comparison.difference is not None:
            return _failed(proof, comparison.difference)
    again = f", some of them with {HIDING}" if any(each.model is not pair.dense for each in rounds) else ""
    return replace(proof, how=f"{proof.how}; then {settings.without(untried)}{again}")


def _failed(proof: Proof, difference: Difference) -> Proof:
    return replace(
        proof,
        passed=False,
        error=difference.gap.error,
        tolerance=difference.bounds.error,
        error_of_spread=difference.gap.error_of_spread,
        tolerance_of_spread=difference.bounds.error_of_spread,
        spread=difference.gap.spread,
        how=f"{proof.how}; they differ here: {difference.setting.words}",
    )


def _closed_gates(
    dense: nn.Module,
    small: nn.Module,
    groups: ChannelGroups,
    plan: Plan,
    inputs: Inputs,
    dtype: torch.dtype,
    bounds: Bounds,
) -> Proof:
    whole = in_precision(copy.deepcopy(dense), dtype)
    cut = in_precision(copy.deepcopy(small), dtype)
    gates = {name: keep.to(_device(dense), dtype) for name, keep in plan.keep.items()}
    exact = _cast(inputs, dtype)

    def compare(mode: Mode, as_cut: bool = True) -> Gap:
        model, other = whole, cut
        if mode == "redrawn":
            # The same plan on other weights; what this cut itself holds, the first comparison has shown.
            model = begun_again(whole, lambda net: varies(shrink(net, groups, plan), exact))
            other = shrink(model, groups, plan)
        own = gate_channels(model, groups)
        own = renormalised(own, groups) if as_cut else own
        with (
            torch.no_grad(),
            exact_arithmetic(),
            doubles_kept(),
            _in_mode(model, mode),
            _in_mode(other, mode),
        ):
            return gap(own(gates, exact), other(*exact))

    found, mode = _where_it_counts(compare)
    dead = not found.counts and _vary_in(whole, exact, mode)
    how = f"{len(exact[0])} inputs, {str(dtype).removeprefix('torch.')}{_statistics(dense, mode)}"
    proof = replace(_proof("closed_gates", found, bounds, how), dead=dead)
    scales = renormalised(gate_channels(whole, groups), groups).open.values()
    if all(bool(scale(gates).all()) for scale in scales):
        return proof
    inexact = compare(mode, as_cut=False).error_of_spread
    how += f", LayerNorms over the channels that stay (with all of them {inexact:.1e} of the spread away)"
    return replace(proof, how=how, inexact=inexact)


def _vary_in(model: nn.Module, inputs: Inputs, mode: Mode) -> bool:
    """Tell whether outputs of a network, as it is, vary enough over inputs to be compared."""
    with torch.no_grad(), exact_arithmetic(), _in_mode(model, mode):
        outputs = model(*inputs)
    return gap(outputs, outputs).counts


Mode = Literal["fixed", "batch", "redrawn"]
_MODES: dict[Mode, str] = {
    "fixed": "the network's own batch-norm statistics",
    "batch": "batch-norm statistics of the inputs",
    "redrawn": "weights redrawn, since the outputs of its own are constant",
}


def _statistics(model: nn.Module, mode: Mode) -> str:
    return f", {_MODES[mode]}" if mode == "redrawn" or any(True for _ in batch_norms(model)) else ""


def _in_mode(model: nn.Module, mode: Mode) -> AbstractContextManager[None]:
    return evaluating(model, "fixed" if mode == "fixed" else "batch")


def _where_it_counts(compare: Callable[[Mode], Gap]) -> tuple[Gap, Mode]:
    """Compare as the networks are and, where outputs collapse, in ways in which they don't.

    Two constants that agree say nothing, but two that don't are a fault: the largest error counts.
    """
    worst, best = 0.0, (Gap(0.0, 0.0, 0.0), next(iter(_MODES)))
    for mode in _MODES:
        found = compare(mode)
        worst = max(worst, found.error)
        # An output that collapsed in this mode may vary in the next.
        if not best[0].counts or (found.counts and found.constant < best[0].constant):
            best = found, mode
        if (found.counts and not found.constant) or not math.isfinite(found.error):
            break
    return replace(best[0], error=worst), best[1]


def _proof(name: ProofName, found: Gap, bounds: Bounds, how: str) -> Proof:
    return Proof(
        name=name,
        passed=bounds.hold(found),
        error=found.error,
        tolerance=bounds.error,
        error_of_spread=found.error_of_spread,
        tolerance_of_spread=bounds.error_of_spread,
        spread=found.spread,
        how=how,
    )


def _fits(model: nn.Module) -> bool:
    """Tell whether two float64 copies and as much again for activations leave half the memory free."""
    entries = sum(p.numel() for p in model.parameters())
    free = psutil.virtual_memory().available
    if _device(model).type == "cuda":
        free = torch.cuda.mem_get_info(_device(model))[0]
    return bool(entries * 8 * 4 < free / 2)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def signature(dense: nn.Module, small: nn.Module, inputs: Inputs) -> Proof:
    """Prove that inputs, output structure, shapes and types are as before, at two batch sizes."""
    batches = (2, min(5, len(inputs[0])))
    differing = [n for n in batches if _signature(dense, inputs, n) != _signature(small, inputs, n)]
    return Proof(
        name="signature",
        passed=not differing,
        error=float(len(differing)),
        tolerance=0.0,
        error_of_spread=None,
        tolerance_of_spread=None,
        spread=None,
        how=f"output structure, shapes and types at batch sizes {batches[0]} and {batches[1]}; "
        "the error counts the sizes at which they differ",
    )


def _signature(model: nn.Module, inputs: Inputs, batch: int) -> tuple[str, list[tuple[Any, ...]]]:
    again = copy.deepcopy(model)  # which may count its calls
    with torch.no_grad(), evaluating(again):
        outputs = outputs_of(again(*(x[:batch] for x in inputs)))
    states = [(name, x.dim(), x.dtype) for name, x in outputs.states.items()]  # which may hold fewer heads
    return outputs.structure, [*((tuple(x.shape), x.dtype) for x in outputs.tensors), *states]


def reloaded(small: nn.Module, folder: Path, inputs: Inputs, unpruned: nn.Module | None = None) -> Proof:
    """Prove that what was written is what was made, by loading it in a fresh process.

    Args:
        small: the network in memory.
        folder: a result folder with its weights and plan.
        inputs: at least 4 inputs.
        unpruned: for a network that no registry can rebuild, the dense one, which a user would hand to
            ``load``; it is sent along by pickle, or, where its class can't be imported, loaded right here.
    """
    if unpruned is not None and not _can_travel(unpruned):
        where = "in this process, since the network can't be pickled for another"
        again = _run_in_modes(load(folder, model=unpruned), inputs)
    else:
        where = "in a fresh process"
        again = _run_elsewhere(folder, inputs, unpruned)
    here = _run_in_modes(copy.deepcopy(small).cpu(), inputs)
    found, mode = _where_it_counts(lambda mode: gap(again[mode], here[mode]))
    return _proof("reloaded", found, Bounds(1e-6, None), f"loaded {where}{_statistics(small, mode)}")


def _can_travel(model: nn.Module) -> bool:
    """Tell whether a fresh process could unpickle the network: no class of a script or of a function."""
    try:
        pickle.dumps(copy.deepcopy(model).to("meta"))
    except Exception:  # whatever a module of the user's own raises where it is pickled
        return False
    return all(
        type(m).__module__ != "__main__" and "<locals>" not in type(m).__qualname__ for m in model.modules()
    )


def _run_in_modes(model: nn.Module, inputs: Inputs) -> dict[Mode, list[Tensor]]:
    """Run in every mode; the model's statistics are not used afterwards."""
    outputs: dict[Mode, list[Tensor]] = {}
    for mode in _MODES:
        net = begun_again(model, lambda net: varies(net, inputs)) if mode == "redrawn" else model
        with torch.no_grad(), _in_mode(net, mode):
            found = outputs_of(net(*(x.cpu() for x in inputs)))
            outputs[mode] = [*found.tensors, *found.states.values()]
    return outputs


def _run_elsewhere(folder: Path, inputs: Inputs, unpruned: nn.Module | None) -> dict[Mode, list[Tensor]]:
    with tempfile.TemporaryDirectory(prefix="structprune-") as scratch:
        task, answer = Path(scratch, "task.pt"), Path(scratch, "answer.pt")
        # Clones, since a view would be saved with all that it is a view of; a file of Python's own, whose
        # errors say what is wrong.
        with task.open("wb") as file:
            torch.save({"inputs": [x.cpu().clone() for x in inputs], "unpruned": unpruned}, file)
        # Only a network of the user's own may need modules that lie in the current folder.
        paths = [str(folder.resolve()), str(task), str(answer)]
        wrong = call_fresh("structprune.proofs:_reload", paths, torch.get_num_threads(), unpruned is not None)
        if wrong is not None:
            raise ProofFailedError(f"the result can't be loaded in a fresh process: {wrong}")
        answers: dict[Mode, list[Tensor]] = torch.load(answer, weights_only=True)
        return answers


def _reload(folder: str, task: str, answer: str) -> None:
    # The task was pickled by our own parent process a moment ago.
    sent = torch.load(task, weights_only=False)
    model = load(Path(folder), model=sent["unpruned"])
    torch.save(_run_in_modes(model, tuple(sent["inputs"])), answer)


def require(proofs: Sequence[Proof]) -> None:
    """Raise if a proof failed.

    Raises:
        ProofFailedError: with the figures of every proof that failed.
    """
    failed = [proof for proof in proofs if not proof.passed]
    if failed:
        raise ProofFailedError("; ".join(_failure(proof) for proof in failed))


def _failure(proof: Proof) -> str:
    if proof.dead:
        why = (
            "the cut network is dead: its outputs are the same whatever goes in, though the dense network's "
            "vary; remove fewer nodes, or keep more of each layer (floor)"
        )
    elif _is_constant(proof):
        why = (
            f"the outputs vary by {proof.spread:.1e} of their size, too little to compare (inputs that are "
            "all alike make them so: give varied ones as the example, or data)"
        )
    else:
        of_shape = "" if math.isfinite(proof.error) else ", since shapes differ or numbers overflow"
        figures = [f"error {proof.error:.1e} (allowed {proof.tolerance}){of_shape}"]
        if proof.error_of_spread is not None:
            figures.append(f"{proof.error_of_spread:.1e} of the spread (allowed {proof.tolerance_of_spread})")
        why = ", ".join(figures)
    return f"proof {proof.name} failed: {why}; {proof.how}"
