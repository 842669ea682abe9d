"""How the command line has cut networks mended."""

from __future__ import annotations

from structprune.cli.runs import network as inputs
from structprune.cli.runs.gather import Gathered
from structprune.reconstruction import Reconstruction, decided


def correction_of(asked: str | None, gathered: Gathered) -> Reconstruction | None:
    """How the cut network is mended, or None where it isn't."""
    images, network, scoring = gathered.images, gathered.network, gathered.scoring
    take = None if images is None else lambda: inputs.unlabelled(images, network, scoring.seed)
    return decided(asked, scoring.trained, take, scoring.seed, scoring.score)
