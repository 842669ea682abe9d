"""The distance of outputs: how far two outputs of the same inputs are apart.

The error of outputs a against b is max|a - b| / max|b|, and beside it max|a - b| / s, where s is the mean
standard deviation of b over the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structprune.errors import InputError
from structprune.nn.outputs import outputs_of, paired

LEAST_SPREAD = 1e-3
"""s / max|b| up to which outputs count as constant."""

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Gap:
    """How far two outputs are apart.

    Attributes:
        error: max|a - b| / max|b|.
        error_of_spread: max|a - b| / s.
        spread: s / max|b|.
        constant: outputs that don't vary, beside others that do.
    """

    error: float
    error_of_spread: float
    spread: float
    constant: int = 0

    @property
    def counts(self) -> bool:
        """Whether the outputs vary enough over the inputs for the comparison to say something."""
        return self.spread > LEAST_SPREAD


@dataclass(frozen=True)
class Bounds:
    """What a gap must stay below; None where a figure is only reported."""

    error: float | None
    error_of_spread: float | None

    def hold(self, gap: Gap) -> bool:
        """Tell whether a gap counts and stays below every bound. NaN stays below nothing."""
        return gap.counts and self.agree(gap)

    def agree(self, gap: Gap) -> bool:
        """Tell whether a gap stays below the bounds; where outputs don't vary, below that on the error."""
        of_spread = self.error_of_spread if gap.counts else None
        pairs = ((gap.error, self.error), (gap.error_of_spread, of_spread))
        return all(bound is None or error < bound for error, bound in pairs)


IN_FLOAT64 = Bounds(1e-9, 1e-9)
IN_FLOAT32 = Bounds(1e-5, 1e-2)


def gap(a: Any, b: Any) -> Gap:
    """Compare outputs of a dense network with those of another, over the same inputs; of several the worst.

    Args:
        a: of the dense network with closed gates; what its caches hold is narrowed to what b's do.
        b: of the cut network, the reference.

    Raises:
        InputError: the outputs differ in structure or shape.
    """
    dense, cut = outputs_of(a), outputs_of(b)
    if (pairs := paired(dense, cut)) is None:
        shapes = " and ".join(str([tuple(x.shape) for x in outputs.tensors]) for outputs in (dense, cut))
        raise InputError(f"outputs of shapes {shapes} can't be compared")
    gaps = [_gap(_real(x), _real(y)) for x, y in pairs if y.numel()]
    # Beside outputs that vary, a constant one, a temperature say, is held to its error alone.
    varied = [g for g in gaps if g.counts] or gaps
    return Gap(
        error=max((g.error for g in gaps), default=0.0),
        error_of_spread=max((g.error_of_spread for g in varied), default=0.0),
        spread=min((g.spread for g in varied), default=0.0),
        constant=len(gaps) - len(varied),
    )


def _real(x: Tensor) -> Tensor:
    x = x.detach()
    return torch.view_as_real(x.resolve_conj()).double() if x.is_complex() else x.double()


def _gap(a: Tensor, b: Tensor) -> Gap:
    # What both leave out of every input: the logit of a class that is never chosen, say.
    left_out = ((a == -torch.inf) & (b == -torch.inf)).all(0) if a.dim() else torch.tensor(False)
    if left_out.any():
        a, b = a.masked_fill(left_out, 0.0), b.masked_fill(left_out, 0.0)
    apart = float((a - b).abs().max())
    largest = float(b.abs().max())
    # Over the inputs, which a recurrent layer's last state has in its second dimension.
    over = next((d for d, size in enumerate(b.shape) if size > 1), None)
    spread = 0.0 if over is None else float(b.std(dim=over).mean())
    if not all(map(torch.isfinite, (torch.tensor(apart), torch.tensor(largest)))):
        return Gap(torch.inf, torch.inf, 0.0)
    return Gap(_ratio(apart, largest), _ratio(apart, spread), _ratio(spread, largest))


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else (0.0 if a == 0 else torch.inf)
