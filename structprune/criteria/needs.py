"""What a criterion needs, said where it is defined; a plug-in says it likewise, or is given everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Needs:
    """What a score is made of.

    Attributes:
        targets: whether targets and their loss change it.
        inputs: what the network runs on: the scoring inputs as they are, with statistics of them where the
            network is untrained; ``shape``, something of their shape; ``none``, nothing.
        weight_draws: whether weights are drawn, as often as NTK-SAP's draws say.
    """

    targets: bool = True
    inputs: Literal["own", "shape", "none"] = "own"
    weight_draws: bool = False


ALL = Needs()


def needs(
    *, targets: bool = True, inputs: Literal["own", "shape", "none"] = "own", weight_draws: bool = False
) -> Callable[[F], F]:
    """Write what a criterion needs on its function.

    Example:
        >>> @needs(targets=False, inputs="none")
        ... def mine(gated, sampling): ...
        >>> needs_of(mine).targets
        False
    """

    def written(function: F) -> F:
        function.needs = Needs(targets, inputs, weight_draws)  # type: ignore[attr-defined]
        return function

    return written


def needs_of(criterion: Callable[..., Any]) -> Needs:
    """Return what a criterion needs: all there is, where it doesn't say."""
    found = getattr(criterion, "needs", ALL)
    return found if isinstance(found, Needs) else ALL
