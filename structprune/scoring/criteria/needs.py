"""What a criterion needs, said where it is defined; a plug-in says it likewise, or is given everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
Inputs = Literal["own", "shape", "none"]
Noise = Literal["never", "untrained", "always"]


@dataclass(frozen=True)
class Needs:
    """What a score is made of.

    Attributes:
        targets: whether targets and their loss change it.
        inputs: what the network runs on: the scoring inputs as they are, with statistics of them where the
            network is untrained; ``shape``, something of their shape; ``none``, nothing.
        noise: where noise stands for the inputs: never, on a network that is ``untrained``, or always.
        weight_draws: whether weights are drawn, as often as NTK-SAP's draws say.
        regrows: whether weights that were masked may come back.
        adds_up: whether ``sums`` of more inputs are those of some and those of the others, added, so that
            half of the inputs may be tried first.
    """

    targets: bool = True
    inputs: Inputs = "own"
    noise: Noise = "never"
    weight_draws: bool = False
    regrows: bool = False
    adds_up: bool = False


ALL = Needs()


def needs(
    *,
    targets: bool = True,
    inputs: Inputs = "own",
    noise: Noise = "never",
    weight_draws: bool = False,
    regrows: bool = False,
    adds_up: bool = False,
) -> Callable[[F], F]:
    """Write what a criterion needs on its function, by the attributes of :class:`Needs`.

    Example:
        >>> @needs(targets=False, inputs="none")
        ... def mine(gated, sampling): ...
        >>> needs_of(mine).targets
        False
    """

    def written(function: F) -> F:
        function.needs = Needs(targets, inputs, noise, weight_draws, regrows, adds_up)  # type: ignore[attr-defined]
        return function

    return written


def needs_of(criterion: Callable[..., Any]) -> Needs:
    """Return what a criterion needs: all there is, where it doesn't say."""
    found = getattr(criterion, "needs", ALL)
    return found if isinstance(found, Needs) else ALL
