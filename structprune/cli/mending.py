"""How the command line has cut networks mended."""

from __future__ import annotations

from structprune.cli import inputs
from structprune.cli.gathering import Asked, Gathered
from structprune.correction import FEWEST, Correction, asked_for, correction_on, rechooses


def correction_of(asked: Asked, found: Gathered) -> Correction | None:
    """Return how the cut network is mended, or None where it isn't."""
    method = asked_for(asked["correct"], found.scoring.trained, found.images is not None)
    if method is None or found.images is None:
        return None
    given = inputs.unlabelled(found.images, found.network, asked["seed"])
    if asked["correct"] is None and len(given[0]) < FEWEST:
        return None
    return correction_on(method, given, asked["seed"], rechooses(method, asked["score"]))
