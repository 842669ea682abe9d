"""The proof that inputs, output structure, shapes and types are as before."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from structprune.nn.batch_norm import evaluating
from structprune.nn.outputs import outputs_of
from structprune.proofs.comparison.gap import Inputs
from structprune.report.data import Proof


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
