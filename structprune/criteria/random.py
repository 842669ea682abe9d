"""The baseline that every score must beat."""

from __future__ import annotations

import torch

from structprune.gates import GatedModel
from structprune.scores import Sampling, Scores, finished


def random(gated: GatedModel, sampling: Sampling) -> Scores:
    """Draw uniform scores in [0, 1), the same for the same seed on every device."""
    generator = torch.Generator().manual_seed(sampling.seed)
    like = next(gated.model.parameters()).dtype
    values = {
        name: torch.rand(shape, generator=generator, dtype=like) for name, shape in gated.shapes.items()
    }
    return finished(values, "random")
