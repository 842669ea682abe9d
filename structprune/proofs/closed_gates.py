"""Proofs that what was cut is what was meant: each compares two networks that must compute the same.

The error of outputs a against b is max|a - b| / max|b|, and beside it max|a - b| / s, where s is the mean
standard deviation of b over the inputs. On an untrained network outputs collapse to a constant, against
which any absolute test passes; so a comparison counts only where s > 1e-3 max|b|, and where a network's own
outputs don't vary so, it is made again with batch-norm statistics of the inputs, then with redrawn weights.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import psutil
import torch
from torch import nn

from structprune.channels import ChannelGroups
from structprune.errors import ProofFailedError
from structprune.nn.precision import cast_inputs, doubles_kept, exact_arithmetic, in_precision
from structprune.nn.reinit import reinitialised
from structprune.proofs.comparison.gap import IN_FLOAT32, IN_FLOAT64, Bounds, Gap, Inputs, gap
from structprune.proofs.comparison.influence import exposed
from structprune.proofs.comparison.lockstep import Difference, Pair, compare
from structprune.proofs.comparison.settings import HIDING, settings_of
from structprune.proofs.modes import Mode, in_mode, proof_of, statistics_words, varies, where_it_counts
from structprune.proofs.verdict import is_constant
from structprune.pruning.budget import Plan
from structprune.pruning.gates import gate_channels, renormalised
from structprune.pruning.surgery import shrink
from structprune.report.data import Proof

CLOSED_INPUTS = 4
"""How many inputs closed gates are compared on: in float64 a convolution lays out patches for all of them."""


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
    if last.passed or is_constant(last) or not proof_of(0).passed:  # a fault of no group's
        return None
    while wrong - right > 1:
        middle = (right + wrong) // 2
        right, wrong = (middle, wrong) if proof_of(middle).passed else (right, middle)
    return groups[wrong - 1].name


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
    exact = cast_inputs(inputs, dtype)

    def compare(mode: Mode, as_cut: bool = True) -> Gap:
        model, other = whole, cut
        if mode == "redrawn":
            # The same plan on other weights; what this cut itself holds, the first comparison has shown.
            model = reinitialised(whole, lambda net: varies(shrink(net, groups, plan), exact))
            other = shrink(model, groups, plan)
        own = gate_channels(model, groups)
        own = renormalised(own, groups) if as_cut else own
        with (
            torch.no_grad(),
            exact_arithmetic(),
            doubles_kept(model),
            in_mode(model, mode),
            in_mode(other, mode),
        ):
            return gap(own(gates, exact), other(*exact))

    found, mode = where_it_counts(compare)
    dead = not found.counts and _vary_in(whole, exact, mode)
    how = f"{len(exact[0])} inputs, {str(dtype).removeprefix('torch.')}{statistics_words(dense, mode)}"
    proof = replace(proof_of("closed_gates", found, bounds, how), dead=dead)
    scales = renormalised(gate_channels(whole, groups), groups).open.values()
    if all(bool(scale(gates).all()) for scale in scales):
        return proof
    inexact = compare(mode, as_cut=False).error_of_spread
    how += f", LayerNorms over the channels that stay (with all of them {inexact:.1e} of the spread away)"
    return replace(proof, how=how, inexact=inexact)


def _vary_in(model: nn.Module, inputs: Inputs, mode: Mode) -> bool:
    """Tell whether outputs of a network, as it is, vary enough over inputs to be compared."""
    with torch.no_grad(), exact_arithmetic(), doubles_kept(model), in_mode(model, mode):
        outputs = model(*inputs)
    return gap(outputs, outputs).counts


def _fits(model: nn.Module) -> bool:
    """Tell whether two float64 copies and as much again for activations leave half the memory free."""
    entries = sum(p.numel() for p in model.parameters())
    free = psutil.virtual_memory().available
    if _device(model).type == "cuda":
        free = torch.cuda.mem_get_info(_device(model))[0]
    return bool(entries * 8 * 4 < free / 2)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
