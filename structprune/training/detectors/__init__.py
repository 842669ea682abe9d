"""Detectors: when to prune a network in training, one value an epoch.

A detector is a frozen dataclass: its settings, and pure functions of a state that goes into a checkpoint. A
plug-in package adds one through the entry-point group ``structprune.training.detectors``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from structprune.registry import Registry
from structprune.training.detectors.detector import Detector, State
from structprune.training.detectors.lazy_regime import LazyRegime, PublishedLazyRegime
from structprune.training.detectors.mask_distance import MaskDistance

MakeDetector = Callable[[float, bool], Detector]
"""From the sparsity that is aimed at and whether channels are removed, with defaults for all else."""

DETECTORS: Registry[MakeDetector] = Registry("detector", "structprune.training.detectors")
_NAMED: Mapping[str, MakeDetector] = {
    "lazy_regime": lambda sparsity, _structured: LazyRegime(sparsity),
    "mask_distance": lambda sparsity, _structured: MaskDistance(sparsity),
    "published_lazy_regime": PublishedLazyRegime,
}
for _name, _make in _NAMED.items():
    DETECTORS.register(_name)(_make)

__all__ = [
    "DETECTORS",
    "Detector",
    "LazyRegime",
    "MakeDetector",
    "MaskDistance",
    "PublishedLazyRegime",
    "State",
]
