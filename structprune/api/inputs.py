"""What a Python caller gives as an example, data and limits, made into what scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from structprune.api.arguments import fitting_data
from structprune.errors import UsageError
from structprune.limits.parse import Limit, read_limits
from structprune.scoring.losses import Loss
from structprune.scoring.samples import (
    Forward,
    Samples,
    random_samples,
    samples_of,
)
from structprune.scoring.score import Scoring, check_loss


def limits_of(nodes: float | None, limits: Mapping[str, str | float]) -> tuple[Limit, ...]:
    """Every limit of a call, nodes among them.

    Raises:
        UsageError: nodes are given twice, or a limit makes no sense.
    """
    if nodes is not None and "nodes" in limits:
        raise UsageError("nodes is given twice: as an argument and among the limits; leave one out")
    return read_limits({**limits, "nodes": nodes} if nodes is not None else limits)


def example_tuple(example: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Example inputs as the positional arguments that they are.

    Raises:
        UsageError: it holds something else than tensors.
    """
    tensors = (example,) if isinstance(example, Tensor) else example
    if not isinstance(tensors, Sequence) or not all(isinstance(x, Tensor) for x in tensors):
        raise UsageError(f"example_input is {_kinds(example)}; expected a tensor, or several in a tuple")
    # What was made in inference mode can't be differentiated through; its clone can.
    return tuple(x.clone() if x.is_inference() else x for x in tensors)


def _kinds(example: object) -> str:
    kind = type(example).__name__
    inside = [type(x).__name__ for x in example] if isinstance(example, list | tuple) else []
    return f"a {kind} of {', '.join(inside)}" if inside else f"a {kind}"


def samples_from(
    model: nn.Module,
    example: tuple[Tensor, ...],
    data: Any,
    loss: Loss | str | None,
    forward: Forward | None,
    count: int,
    scoring: Scoring,
) -> Samples:
    """Return what scores, with the loss that fits.

    Raises:
        InputError: the score takes a loss and none is known, or the data don't fit the network.
        UsageError: there is a loss of targets and there are none.
    """
    if data is None:
        if callable(loss):
            raise UsageError("loss is a function of targets, and without data there are none; give data too")
        scored_on = random_samples(model, example, count, scoring.seed, loss, forward)
    else:
        scored_on = samples_of(data, loss, forward, example[0].device)
        scored_on = fitting_data(model, scored_on, scoring, loss, forward)
    check_loss(scored_on, scoring)
    return scored_on
