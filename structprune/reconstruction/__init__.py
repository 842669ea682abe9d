"""Accuracy back without labels and without training, after a cut."""

from structprune.reconstruction.options import asked_for, decided, rechooses
from structprune.reconstruction.reconstruct import (
    FITTED,
    HELD_OUT,
    METHODS,
    Correction,
    Mended,
    correction_on,
    mend,
    rechoose,
)

__all__ = [
    "FITTED",
    "HELD_OUT",
    "METHODS",
    "Correction",
    "Mended",
    "asked_for",
    "correction_on",
    "decided",
    "mend",
    "rechoose",
    "rechooses",
]
