"""What a detector is: it looks at the network after every epoch and says when to prune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from structprune.errors import UsageError

State = dict[str, Tensor]
"""What a detector remembers between epochs: tensors on the CPU, which a checkpoint takes as they are."""


class Detector(Protocol):
    """Watches a training, one value an epoch. It holds its settings only; what it remembers is the state."""

    @property
    def threshold(self) -> float:
        """What the values are compared with, as ``words`` say."""

    @property
    def words(self) -> str:
        """When it fires, for the report."""

    def start(self, model: nn.Module) -> State:
        """Return the state before the first epoch. The model is not touched."""

    def observe(self, state: State, model: nn.Module) -> tuple[State, float]:
        """Return the state and the value after one more epoch. Neither argument is touched."""

    def fires(self, series: Sequence[float]) -> bool:
        """Tell from the values so far, one an epoch, whether it is time after the last of them."""


def check_sparsity(sparsity: float) -> None:
    """Refuse a target that can't be one.

    Raises:
        UsageError: a fraction outside [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise UsageError(f"a detector for sparsity {sparsity:g}; expected at least 0 and below 1")
