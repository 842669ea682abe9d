"""What has to be known to meet limits: a request to compress has it all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from structprune.limits.parse import Limit
from structprune.pruning.budget import Budget
from structprune.reconstruction import Reconstruction
from structprune.scoring.samples import Samples
from structprune.scoring.score import Scoring


class Problem(Protocol):
    """A network, what it is scored on, and the limits that its cut has to keep."""

    @property
    def model(self) -> nn.Module:
        """The dense network."""

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Positional inputs with a batch dimension."""

    @property
    def samples(self) -> Samples:
        """What scores."""

    @property
    def scoring(self) -> Scoring:
        """How it is scored, and in how many steps."""

    @property
    def limits(self) -> Sequence[Limit]:
        """What is to go, or may be left."""

    @property
    def correction(self) -> Reconstruction | None:
        """How the network is reconstructed after a cut, or None."""

    def budget(self, remove: float = 0.0) -> Budget:
        """Budget of a fraction of nodes, with floor and alignment."""
