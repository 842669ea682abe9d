"""Accuracy back without labels and without training, after a cut."""

from structprune.correction.mending import (
    FEWEST,
    FITTED,
    HELD_OUT,
    METHODS,
    Correction,
    Mended,
    asked_for,
    correction_on,
    mend,
    rechoose,
    rechooses,
)

__all__ = [
    "FEWEST",
    "FITTED",
    "HELD_OUT",
    "METHODS",
    "Correction",
    "Mended",
    "asked_for",
    "correction_on",
    "mend",
    "rechoose",
    "rechooses",
]
