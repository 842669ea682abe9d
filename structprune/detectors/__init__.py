"""Detectors: when to prune a network in training, one value an epoch.

A detector is a frozen dataclass: its settings, and pure functions of a state that goes into a checkpoint. A
plug-in package adds one through the entry-point group ``structprune.detectors``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from structprune.detectors.detector import Detector, State
from structprune.detectors.lazy_regime import LazyRegime, PublishedLazyRegime
from structprune.detectors.mask_distance import MaskDistance
from structprune.registry import Registry

MakeDetector = Callable[[float, bool], Detector]
"""From the sparsity that is aimed at and whether channels are removed, with defaults for all else."""

DETECTORS: Registry[MakeDetector] = Registry("detector", "structprune.detectors")
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
