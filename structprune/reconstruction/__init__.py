"""Accuracy back without labels and without training, after a cut."""

from structprune.reconstruction.methods import (
    FITTED,
    HELD_OUT,
    METHODS,
    Reconstructed,
    Reconstruction,
    rechoose,
    reconstruct,
    reconstruction_on,
)
from structprune.reconstruction.options import asked_for, decided, rechooses

__all__ = [
    "FITTED",
    "HELD_OUT",
    "METHODS",
    "Reconstructed",
    "Reconstruction",
    "asked_for",
    "decided",
    "rechoose",
    "rechooses",
    "reconstruct",
    "reconstruction_on",
]
