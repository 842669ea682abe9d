"""The proof that an ONNX file computes what the module computes.

Legend: N inputs, n of them in a batch, ... the output's own dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from exporters.onnx_settings import BATCH, LARGE_BATCH, SCALES, Setting, settings
from exporters.runtime.networks import run_outputs
from exporters.runtime.providers import Session, feeds, first_line, open_session, running_provider
from structprune.errors import InputError
from structprune.report.data import Proof

MIN_SPREAD = 1e-3
"""Outputs that vary less than this over the inputs, relative to the largest, prove nothing."""

AFFORDABLE = 40e9
"""Floating-point operations up to which the large batch is tried in any case: about a second."""

AT_MOST = 2e12
"""Floating-point operations up to which it is tried where the file may hold one way of several."""


@dataclass(frozen=True)
class _Gap:
    """How far one output is off: max|a - b| / m, max|a - b| / s and s / m, and in which setting.

    The spread counts where the inputs are the proof's own, and is infinite elsewhere.
    """

    error: float
    of_spread: float
    spread: float
    setting: Setting


@dataclass(frozen=True)
class _Size:
    """Largest magnitude m of one output over all inputs, and its spread s."""

    largest: float
    spread: float


def check_onnx(
    model: nn.Module,
    path: Path,
    inputs: tuple[Tensor, ...],
    *,
    batches: Sequence[int] = (1, 2, 7),
    scales: Sequence[float] = SCALES,
    large: int = LARGE_BATCH,
    whole: bool = False,
    rtol: float = 1e-4,
    rtol_of_spread: float = 1e-2,
) -> Proof:
    """Compare a module in evaluation mode with its ONNX file in ONNX Runtime, in several settings.

    With b the module's output, a the file's, and over all N inputs m = max|b| and s the mean over output
    elements of b's standard deviation: passed only if max|a - b| / m < ``rtol``, max|a - b| / s <
    ``rtol_of_spread`` and s / m > 1e-3, everything finite, for every output and setting. The worst figures
    are reported. The settings are the batch sizes; a larger batch; two inputs at each of the scales; two
    inputs of twice and of half the size along what the file calls dynamic. Where the inputs are others, m and
    s are those of their own outputs if these are larger. A setting that the module itself can't run in, or
    in which it puts out what is not finite, is left out, and named.

    Args:
        model: the module, on the CPU.
        path: its ONNX file.
        inputs: N >= max(batches) inputs, each tensor of shape [N, ...]; they should differ from one another.
        batches: sizes n; the first n inputs are run at each.
        scales: factors on inputs with a fraction; whole numbers stay.
        large: a larger batch, the inputs over and over; 33 or more.
        whole: whether nothing tells of several ways through the module. Then the larger batch is left out
            from 40 GFLOP on, else from 2 TFLOP on.
        rtol: bound relative to the largest output.
        rtol_of_spread: bound relative to the outputs' spread.

    Returns:
        The proof ``"onnx"``. Its figures are infinite where the file can't be run in a setting, gives
        other shapes, or something is not finite.

    Raises:
        InputError: there are too few inputs, the module can't run on them, or the file can't be opened.
    """
    count = min((len(x) for x in inputs if x.dim()), default=0)
    if count < max(batches):
        raise InputError(f"checking batches of {tuple(batches)} takes {max(batches)} inputs; got {count}")
    session = open_session(path)
    everything, flops = _outputs_and_cost(model, inputs)
    cost = large * flops / count
    affordable = cost <= (AFFORDABLE if whole else AT_MOST)
    missed = [] if affordable else [f"{BATCH}{large} ({cost / 1e9:.0f} GFLOP)"]
    sizes = {name: _size(b) for name, b in everything.items()}
    gaps: list[_Gap] = []
    for setting in settings(inputs, session, batches, large if affordable else None, scales):
        expected = _expected(model, setting)
        if isinstance(expected, str):
            missed.append(f"{setting.name} ({expected})")
        else:
            gaps += _gaps(session, setting, expected, sizes)
    if not any(gap.setting.usual for gap in gaps):
        raise InputError(f"the network runs in no batch of {tuple(batches)}, but of {count}: {missed[0]}")
    how = f"{_surroundings(session, everything)}, spread over {count} inputs; {_listed(gaps, missed)}"
    return _proof(gaps, how, rtol, rtol_of_spread)


def _outputs_and_cost(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], float]:
    """Run the module on all inputs, and count the floating-point operations of convolutions and products."""
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            return run_outputs(model, inputs), float(counter.get_total_flops())
    # Not every network runs while it is watched.
    except Exception:
        try:
            return run_outputs(model, inputs), 0.0
        except Exception as error:
            shapes = [tuple(x.shape) for x in inputs]
            raise InputError(
                f"the network can't run on inputs of shapes {shapes}: {first_line(error)}"
            ) from error


def _expected(model: nn.Module, setting: Setting) -> dict[str, Tensor] | str:
    """Return the module's outputs, or why there are none to compare with."""
    try:
        outputs = run_outputs(model, setting.inputs)
    # A network of the user's own may raise anything.
    except Exception as error:
        return f"the network: {first_line(error)}"
    finite = all(bool(torch.isfinite(output).all()) for output in outputs.values())
    return outputs if setting.usual or finite else "the network puts out values that are not finite"


def _gaps(
    session: Session, setting: Setting, expected: Mapping[str, Tensor], sizes: Mapping[str, _Size]
) -> Iterator[_Gap]:
    """Yield one gap an output in this setting."""
    apart = _Gap(math.inf, math.inf, 0.0, setting)
    try:
        got = [torch.as_tensor(array) for array in session.run(None, feeds(session, setting.inputs))]
    except InputError:
        raise
    # A batch size that was baked in shows here, as an exception with no base of its own.
    except Exception:
        got = []
    if len(got) != len(expected) or not got:
        yield apart
        return
    for a, (name, b) in zip(got, expected.items(), strict=True):
        if a.shape != b.shape or name not in sizes:
            yield apart
        else:
            yield _gap(a, b, sizes[name] if setting.usual else _larger(sizes[name], _size(b)), setting)


def _gap(a: Tensor, b: Tensor, size: _Size, setting: Setting) -> _Gap:
    """Hold the file's a against the module's b, both [n, ...]."""
    largest, s = size.largest, size.spread
    difference = float((a.double() - b.double()).abs().max()) if b.numel() else 0.0
    if not all(map(math.isfinite, (largest, s, difference))) or (largest == 0 and difference > 0):
        return _Gap(math.inf, math.inf, 0.0, setting)
    # Where all is 0 they are alike, and that is no proof: outputs that don't vary count nowhere.
    error, spread = (difference / largest, s / largest) if largest else (0.0, 0.0)
    of_spread = 0.0 if difference == 0 else difference / s if s > 0 else math.inf
    return _Gap(error, of_spread, spread if setting.usual else math.inf, setting)


def _size(output: Tensor) -> _Size:
    if not output.numel():
        return _Size(0.0, 0.0)
    output = output.double()
    return _Size(float(output.abs().max()), float(output.std(dim=0, correction=0).mean()))


def _larger(usual: _Size, other: _Size) -> _Size:
    """Return what counts in another setting: at a smaller scale, the usual inputs' outputs."""
    return _Size(max(usual.largest, other.largest), max(usual.spread, other.spread))


def _proof(gaps: Sequence[_Gap], how: str, rtol: float, rtol_of_spread: float) -> Proof:
    error, of_spread = max(gap.error for gap in gaps), max(gap.of_spread for gap in gaps)
    spread = min(gap.spread for gap in gaps)
    within = error < rtol and of_spread < rtol_of_spread
    worst = max(gaps, key=lambda gap: (gap.error, gap.of_spread)).setting.name
    return Proof(
        name="onnx",
        passed=within and spread > MIN_SPREAD,
        error=error,
        tolerance=rtol,
        error_of_spread=of_spread,
        tolerance_of_spread=rtol_of_spread,
        spread=spread,
        how=f"{how}; the worst of them" if within else f"{how}; the worst of them is {worst}",
    )


def _surroundings(session: Session, outputs: Mapping[str, Tensor]) -> str:
    precisions = ", ".join(sorted({str(output.dtype).removeprefix("torch.") for output in outputs.values()}))
    provider = running_provider(session)
    return f"PyTorch against ONNX Runtime, {provider}; {precisions}, {len(outputs)} output(s)"


def _listed(gaps: Sequence[_Gap], missed: Sequence[str]) -> str:
    names = list(dict.fromkeys(gap.setting.name for gap in gaps))
    sizes = [name.removeprefix(BATCH) for name in names if name.startswith(BATCH)]
    others = [name for name in names if not name.startswith(BATCH)]
    tried = ", ".join([f"batches of {', '.join(sizes)}", *others])
    return "; not tried: ".join(filter(None, (tried, ", ".join(missed))))
