"""How the command line has cut networks mended."""

from __future__ import annotations

from structprune.cli import inputs
from structprune.cli.gathering import Asked, Gathered
from structprune.correction import Correction, decided


def correction_of(asked: Asked, found: Gathered) -> Correction | None:
    """Return how the cut network is mended, or None where it isn't."""
    images, network, seed = found.images, found.network, asked["seed"]
    take = None if images is None else lambda: inputs.unlabelled(images, network, seed)
    return decided(asked["correct"], found.scoring.trained, take, seed, asked["score"])
