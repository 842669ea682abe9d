"""The time when the channels that would stay no longer change: EarlyBird's detector (arXiv 1909.11957)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from structprune.errors import InputError, UsageError
from structprune.nn.layers import BatchNorm
from structprune.training.detectors.detector import State, check_sparsity

RAW, NORMALISED = 0.1, 0.2
"""Thresholds: EarlyBird's, and the same at half of the channels in units of what chance gives."""


@dataclass(frozen=True)
class MaskDistance:
    """Fires when the masks of several epochs are nearly the same (EarlyBird, arXiv 1909.11957).

    A mask marks the channels with the largest |γ| of all batch norms. The value is the largest fraction of
    bits in which the newest mask differs from one of the ``memory - 1`` before it, and 1 while there are
    fewer than ``memory``. At p = 0.88 masks drawn at random differ in only 2p(1 - p) = 0.21 of their bits,
    so that 0.1 is much laxer there than at p = 0.5; ``normalised`` divides by it. A mask before the first
    epoch doesn't count: all γ are equal then.

    Attributes:
        sparsity: p, the fraction of channels that a mask removes.
        tau: the threshold; None: EarlyBird's 0.1, or 0.2 if normalised, the same thing at p = 0.5.
        memory: masks that are compared.
        normalised: whether distances are relative to those of random masks.

    Raises:
        UsageError: a sparsity outside [0, 1), a negative threshold, or fewer than two masks.

    Example:
        >>> detector = MaskDistance(sparsity=0.5, memory=3)
        >>> [detector.fires(series) for series in ([1.0, 1.0], [1.0, 1.0, 0.3], [1.0, 1.0, 0.3, 0.1])]
        [False, False, True]
    """

    sparsity: float
    _: KW_ONLY
    tau: float | None = None
    memory: int = 5
    normalised: bool = False

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if self.memory < 2 or (self.tau is not None and not self.tau >= 0):
            raise UsageError(
                f"{self.memory} masks within {self.threshold:g}; expected at least 2 masks, within 0 or more"
            )

    @property
    def threshold(self) -> float:
        """The distance in use."""
        if self.tau is not None:
            return self.tau
        return NORMALISED if self.normalised else RAW

    @property
    def words(self) -> str:
        """When it fires."""
        unit = "of what random masks differ by" if self.normalised else "of the channels"
        return f"the masks of {self.memory} epochs differ by at most {self.threshold:.3g} {unit}"

    def start(self, model: nn.Module) -> State:
        """Return a memory without masks.

        Raises:
            InputError: the network has no batch norms with scales.
        """
        return {"masks_TC": torch.zeros(0, len(_scales(model)), dtype=torch.bool)}

    def observe(self, state: State, model: nn.Module) -> tuple[State, float]:
        """Add a mask to the memory, forget the oldest, and return the distance."""
        newest_1C = largest_scales(model, self.sparsity)[None]
        masks_TC = torch.cat([state["masks_TC"], newest_1C])[-self.memory :]
        return {"masks_TC": masks_TC}, self._distance(masks_TC)

    def _distance(self, masks_TC: Tensor) -> float:
        if len(masks_TC) < self.memory:
            return 1.0
        differing_T = (masks_TC[:-1] != masks_TC[-1]).double().mean(dim=1)
        by_chance = 2 * self.sparsity * (1 - self.sparsity)
        unit = by_chance if self.normalised and by_chance else 1.0  # nothing removed, nothing differs
        return float(differing_T.max()) / unit

    def fires(self, series: Sequence[float]) -> bool:
        """Tell whether there are enough masks, and the last ones are close."""
        # The count matters by itself: with a threshold of 1 or more the placeholder 1.0 would fire.
        return len(series) >= self.memory and series[-1] <= self.threshold


def largest_scales(model: nn.Module, sparsity: float) -> Tensor:
    """Mark the channels that a global ranking of |γ| keeps.

    Args:
        model: the network.
        sparsity: of the C channels of all batch norms, exactly round(sparsity C) are not marked.

    Returns:
        (C,) bool on the CPU, in the order of the network; of equal scales the first are marked.

    Raises:
        InputError: the network has no batch norms with scales, or a scale is not finite.

    Example:
        >>> layer = nn.BatchNorm1d(4)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([0.1, -0.9, 0.5, 0.5]))
        >>> largest_scales(layer, 0.5)
        tensor([False,  True,  True, False])
    """
    scales_C = _scales(model)
    if not torch.isfinite(scales_C).all():
        raise InputError("a batch-norm scale is not finite; the training has diverged, lower the rate")
    kept = len(scales_C) - round(sparsity * len(scales_C))
    mask_C = torch.zeros(len(scales_C), dtype=torch.bool)
    mask_C[torch.sort(scales_C, descending=True, stable=True).indices[:kept]] = True
    return mask_C


def _scales(model: nn.Module) -> Tensor:
    """Return |γ| of all batch norms, (C,) on the CPU."""
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm) and layer.affine]
    if not layers:
        raise InputError("mask distance ranks batch-norm scales, and this network has none; use lazy_regime")
    return torch.cat([layer.weight.detach().abs().double().cpu() for layer in layers])
