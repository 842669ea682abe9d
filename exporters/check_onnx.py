"""The proof that an ONNX file computes what the module computes.

Legend: N inputs, n of them in a batch, ... the output's own dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from exporters.networks import run_outputs
from exporters.providers import Session, feeds, open_session, running_provider
from structprune.errors import InputError
from structprune.report import Proof

MIN_SPREAD = 1e-3
"""Outputs that vary less than this over the inputs, relative to the largest, prove nothing."""


@dataclass(frozen=True)
class _Gap:
    """How far one output is off: max|a - b| / max|b|, max|a - b| / s and s / max|b|."""

    error: float
    of_spread: float
    spread: float


_APART = _Gap(error=math.inf, of_spread=math.inf, spread=0.0)


def check_onnx(
    model: nn.Module,
    path: Path,
    inputs: tuple[Tensor, ...],
    *,
    batches: Sequence[int] = (1, 2, 7),
    rtol: float = 1e-4,
    rtol_of_spread: float = 1e-2,
) -> Proof:
    """Compare a module in evaluation mode with its ONNX file in ONNX Runtime, at several batch sizes.

    With b the module's output, a the file's and s the mean over output elements of b's standard deviation
    over all N inputs: passed only if max|a - b| / max|b| < ``rtol``, max|a - b| / s < ``rtol_of_spread`` and
    s / max|b| > 1e-3, everything finite, for every output and batch size. The worst figures are reported.

    Args:
        model: the module, on the CPU.
        path: its ONNX file.
        inputs: N >= max(batches) inputs, each tensor of shape [N, ...]; they should differ from one another.
        batches: sizes n; the first n inputs are run at each.
        rtol: bound relative to the largest output.
        rtol_of_spread: bound relative to the outputs' spread.

    Returns:
        The proof ``"onnx"``. Its figures are infinite where the file can't be run at a batch size, gives
        other shapes, or something is not finite.

    Raises:
        InputError: there are too few inputs, or the file can't be opened.
    """
    given = min((len(x) for x in inputs if x.dim()), default=0)
    if given < max(batches):
        raise InputError(f"checking batches of {tuple(batches)} takes {max(batches)} inputs; got {given}")
    session = open_session(path)
    everything = run_outputs(model, inputs)
    gaps = [gap for n in batches for gap in _gaps(model, session, _first(inputs, n), everything)]
    error, of_spread = max(gap.error for gap in gaps), max(gap.of_spread for gap in gaps)
    spread = min(gap.spread for gap in gaps)
    return Proof(
        name="onnx",
        passed=error < rtol and of_spread < rtol_of_spread and spread > MIN_SPREAD,
        error=error,
        tolerance=rtol,
        error_of_spread=of_spread,
        tolerance_of_spread=rtol_of_spread,
        spread=spread,
        how=_how(session, everything, batches, given),
    )


def _first(inputs: tuple[Tensor, ...], n: int) -> tuple[Tensor, ...]:
    return tuple(x[:n] if x.dim() else x for x in inputs)


def _gaps(
    model: nn.Module, session: Session, inputs: tuple[Tensor, ...], everything: dict[str, Tensor]
) -> list[_Gap]:
    """Return one gap an output at this batch size."""
    expected = list(run_outputs(model, inputs).values())
    try:
        got = [torch.as_tensor(array) for array in session.run(None, feeds(session, inputs))]
    except InputError:
        raise
    # A batch size that was baked in shows here, as an exception with no base of its own.
    except Exception:
        return [_APART]
    if len(got) != len(expected) or not got:
        return [_APART]
    return [_gap(a, b, whole) for a, b, whole in zip(got, expected, everything.values(), strict=True)]


def _gap(a: Tensor, b: Tensor, whole: Tensor) -> _Gap:
    """Hold the file's a against the module's b, both [n, ...]; ``whole`` is b over all inputs, [N, ...]."""
    if a.shape != b.shape:
        return _APART
    a, b, whole = a.double(), b.double(), whole.double()
    largest, s = float(whole.abs().max()), float(whole.std(dim=0, correction=0).mean())
    difference = float((a - b).abs().max())
    if not all(map(math.isfinite, (largest, s, difference))) or (largest == 0 and difference > 0):
        return _APART
    if largest == 0:  # alike, and no proof: outputs that don't vary count nowhere
        return _Gap(0.0, 0.0, 0.0)
    return _Gap(difference / largest, difference / s if s > 0 else math.inf, s / largest)


def _how(session: Session, outputs: dict[str, Tensor], batches: Sequence[int], given: int) -> str:
    sizes = ", ".join(map(str, batches))
    precisions = ", ".join(sorted({str(output.dtype).removeprefix("torch.") for output in outputs.values()}))
    return (
        f"PyTorch against ONNX Runtime, {running_provider(session)}; {precisions}, {len(outputs)} output(s), "
        f"batches of {sizes}, spread over {given} inputs; the worst of them"
    )
