"""The baseline that every score must beat."""

from __future__ import annotations

import torch

from structprune.pruning.gates import GatedModel
from structprune.scoring.criteria.needs import needs
from structprune.scoring.sampling import Sampling
from structprune.scoring.scores import Scores, finished


@needs(targets=False, inputs="none")
def random(gated: GatedModel, sampling: Sampling) -> Scores:
    """Draw uniform scores in [0, 1), the same for the same seed on every device; 0 for closed gates."""
    generator = torch.Generator().manual_seed(sampling.seed)
    values = {
        name: torch.rand(gate.shape, generator=generator, dtype=gate.dtype) * gate.cpu()
        for name, gate in gated.ones(requires_grad=False).items()
    }
    return finished(values, "random")
