"""Batch-norm modes in which two networks are compared until their outputs vary."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from structprune.nn.batch_norm import evaluating
from structprune.nn.layers import batch_norms
from structprune.nn.precision import doubles_kept
from structprune.proofs.comparison.gap import Bounds, Gap, Inputs, gap
from structprune.report.data import Proof, ProofName

Mode = Literal["fixed", "batch", "redrawn"]


MODES: dict[Mode, str] = {
    "fixed": "the network's own batch-norm statistics",
    "batch": "batch-norm statistics of the inputs",
    "redrawn": "weights redrawn, since the outputs of its own are constant",
}


def statistics_words(model: nn.Module, mode: Mode) -> str:
    """How outputs were made to vary, for what a proof says of itself."""
    return f", {MODES[mode]}" if mode == "redrawn" or any(True for _ in batch_norms(model)) else ""


def in_mode(model: nn.Module, mode: Mode) -> AbstractContextManager[None]:
    """Evaluation mode with the batch-norm statistics of a mode, while the block runs."""
    return evaluating(model, "fixed" if mode == "fixed" else "batch")


def where_it_counts(compare: Callable[[Mode], Gap]) -> tuple[Gap, Mode]:
    """Compare as the networks are and, where outputs collapse, in ways in which they don't.

    Two constants that agree say nothing, but two that don't are a fault: the largest error counts.
    """
    worst, best = 0.0, (Gap(0.0, 0.0, 0.0), next(iter(MODES)))
    for mode in MODES:
        found = compare(mode)
        worst = max(worst, found.error)
        # An output that collapsed in this mode may vary in the next.
        if not best[0].counts or (found.counts and found.constant < best[0].constant):
            best = found, mode
        if (found.counts and not found.constant) or not math.isfinite(found.error):
            break
    return replace(best[0], error=worst), best[1]


def proof_of(name: ProofName, found: Gap, bounds: Bounds, how: str) -> Proof:
    """Proof that a gap holds its bounds."""
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


def varies(model: nn.Module, inputs: Inputs) -> bool:
    """Tell whether outputs vary enough over inputs to be compared, with batch statistics of these."""
    with torch.no_grad(), doubles_kept(model), evaluating(model, "batch"):
        outputs = model(*(x.to(next(model.parameters()).device) for x in inputs))
    return gap(outputs, outputs).counts
