"""The end of the early phase, when weights hardly move any more: EarlyCroP's detector (arXiv 2206.10451)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from structprune.errors import InputError, UsageError
from structprune.training.detectors.detector import State, check_sparsity

TAU_RANGE = (0.01, 0.5)
"""Where 1 - sparsity is a useful threshold: tighter ones wait for noise to settle, laxer fire at once."""


@dataclass(frozen=True)
class LazyRegime:
    """Fires when the distance from the initial weights has stopped growing.

    D_t = |θ_t - θ_0|² / |θ_0|² after epoch t, over all trainable parameters; it is time when
    |D_t - D_(t-1)| / |D_1| < τ (EarlyCroP, arXiv 2206.10451). For t = 1 the ratio is 1 whatever happens, so
    that it fires after epoch 2 at the earliest.

    Attributes:
        sparsity: the target: of nodes where channels are removed, else of weights.
        squared: False takes the plain norms, as the released code does.
        tau: the threshold; None: the paper's 1 - sparsity, within 0.01 and 0.5.

    Raises:
        UsageError: a sparsity outside [0, 1), or a threshold that is not above 0.

    Example:
        >>> detector = LazyRegime(sparsity=0.88)
        >>> [detector.fires(series) for series in ([1.0], [1.0, 1.5], [1.0, 1.5, 1.6])]
        [False, False, True]
    """

    sparsity: float
    _: KW_ONLY
    squared: bool = True
    tau: float | None = None

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if self.tau is not None and not self.tau > 0:
            raise UsageError(f"tau {self.tau:g}; expected a threshold above 0")

    @property
    def threshold(self) -> float:
        """The τ in use, as a fraction of the first epoch's distance."""
        low, high = TAU_RANGE
        return min(max(1 - self.sparsity, low), high) if self.tau is None else self.tau

    @property
    def words(self) -> str:
        """When it fires."""
        distance = "|θ-θ₀|²/|θ₀|²" if self.squared else "|θ-θ₀|/|θ₀|"
        return f"{distance} changed within an epoch by less than {self.threshold:.3g} of its first value"

    def start(self, model: nn.Module) -> State:
        """Keep θ_0.

        Raises:
            InputError: nothing can be trained, or all of it is zero.
        """
        reference = _copies((name, p) for name, p in model.named_parameters() if p.requires_grad)
        if not sum(float(value.abs().sum()) for value in reference.values()):
            raise InputError(
                "the lazy regime is a distance from initial weights; this network has none but 0"
            )
        return reference

    def observe(self, state: State, model: nn.Module) -> tuple[State, float]:
        """Return the state as it was, and D_t."""
        distance = relative_distance(state, model)
        return state, distance**2 if self.squared else distance

    def fires(self, series: Sequence[float]) -> bool:
        """Tell whether the last step was short next to the first."""
        if len(series) < 2:
            return False
        return abs(series[-1] - series[-2]) < self.threshold * abs(series[0])


@dataclass(frozen=True)
class PublishedLazyRegime:
    """What EarlyCroP's released code does (arXiv 2206.10451), for comparison with its tables.

    The reference is θ_1, after the first epoch; d_t = |θ_1 - θ_t| / |θ_1| over all parameters, d_1 = 0. After
    epoch 2 the threshold is fixed at d_2 times :attr:`threshold`; from epoch 3 on it fires when
    |d_t - d_(t-1)| is below that. For structured targets of 0.9 and more it never is.

    Attributes:
        sparsity: the target: of nodes where ``structured``, else of weights.
        structured: whether channels are removed.

    Raises:
        UsageError: a sparsity outside [0, 1).

    Example:
        >>> series = [0.0, 0.4, 0.41]
        >>> [PublishedLazyRegime(sparsity, structured=True).fires(series) for sparsity in (0.8, 0.9)]
        [True, False]
    """

    sparsity: float
    structured: bool

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)

    @property
    def threshold(self) -> float:
        """The factor of d_2; not above 0 for structured targets of 0.9 and more."""
        return min(1 - self.sparsity - 0.1, 0.99) if self.structured else 1 - self.sparsity

    @property
    def words(self) -> str:
        """When it fires, or that it can't."""
        if self.threshold <= 0:
            return f"never: the released code's threshold is {self.threshold:.3g} at {self.sparsity:g}"
        return f"|θ-θ₁|/|θ₁| changed within an epoch by less than {self.threshold:.3g} of its second value"

    def start(self, model: nn.Module) -> State:
        """Keep nothing: the reference comes after the first epoch."""
        return {}

    def observe(self, state: State, model: nn.Module) -> tuple[State, float]:
        """Take the reference after the first epoch, and return d_t."""
        if not state:
            return _copies(model.named_parameters()), 0.0
        return state, relative_distance(state, model)

    def fires(self, series: Sequence[float]) -> bool:
        """Tell whether the last step was short next to that of epoch 2."""
        if len(series) < 3:
            return False
        return abs(series[-1] - series[-2]) < series[1] * self.threshold


def relative_distance(reference: State, model: nn.Module) -> float:
    """Return |θ - r| / |r| over the parameters of the reference, summed in float64.

    Args:
        reference: parameter name -> tensor on the CPU.
        model: the network that has them.
    """
    now = dict(model.named_parameters())
    moved = sum(
        _squared_norm(now[name].detach().cpu().double() - r.double()) for name, r in reference.items()
    )
    total = sum(_squared_norm(r.double()) for r in reference.values())
    return math.sqrt(moved / total)


def _copies(parameters: Iterable[tuple[str, Tensor]]) -> State:
    # clone: what is on the CPU already would be shared with the model and move with it.
    return {name: value.detach().cpu().clone() for name, value in parameters}


def _squared_norm(value: Tensor) -> float:
    return float(torch.sum(value * value))
