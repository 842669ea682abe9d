"""What scores a network: inputs and targets in mini-batches, with the loss that goes with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from structprune.batch_norm import buffers_kept, evaluating
from structprune.crew import ALONE, Crew
from structprune.errors import InputError, UsageError
from structprune.scores import MINI_BATCH, Batch, mini_batches_of

Loss = Callable[[Any, Any], Tensor]
Forward = Callable[[Callable[..., Any], tuple[Tensor, ...]], Any]

DEFAULT_SAMPLES = 64
IMAGES = 4
"""Dimensions of images, (N, C, H, W)."""

WHOLE = (torch.int8, torch.int16, torch.int32, torch.uint8)
"""Whole numbers that cross entropy takes only after they were made int64."""

_EXPECTED = "expected (inputs, targets) tensors of one length, or an iterable of such pairs"


@dataclass(frozen=True)
class Samples:
    """What scores a network.

    Attributes:
        batches: mini-batches of inputs and targets.
        loss: (output, target) -> mean loss.
        forward: (network, inputs) -> output that ``loss`` takes.
        real: whether these are data and not noise.
        how: where they come from, for the report.
        classes: whether the output is class scores (N, K, ...) and the targets are classes, so that labels
            may be drawn from what the network predicts.
        crew: the processes among which the mini-batches are dealt; each of them has them all.
    """

    batches: tuple[Batch, ...]
    loss: Loss
    forward: Forward = lambda network, inputs: network(*inputs)
    real: bool = True
    how: str = "data"
    classes: bool = False
    crew: Crew = ALONE


def random_samples(
    model: nn.Module, example: tuple[Tensor, ...], count: int = DEFAULT_SAMPLES, seed: int = 0
) -> Samples:
    """Return standard-normal inputs with random targets, for a network without data.

    Targets are classes where the network puts out floating-point scores (N, K, ...), drawn uniformly.

    Args:
        model: the network.
        example: positional inputs, (N, ...) each.
        count: how many samples.
        seed: of inputs and targets.
    """
    if count < 2:
        raise UsageError(f"{count} samples are too few to score on; give at least 2, better 64")
    generator = torch.Generator().manual_seed(seed)
    inputs = tuple(random_like(x, count, generator) for x in example)
    try:
        with torch.no_grad(), evaluating(model), buffers_kept(model):
            output = model(*(x[:2] for x in inputs))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        shapes = [tuple(x.shape) for x in example]
        raise InputError(
            f"the network can't run on an example of shape {shapes}: {reason}; give one that it takes"
        ) from error
    scores = _scores_in(output)
    if scores is None or scores.shape[1] < 2:
        raise InputError(
            f"the network puts out {_described(output)}, for which no loss is known; "
            "from Python, give data=, loss= and forward="
        )
    shape = (count, *scores.shape[2:])
    target = torch.randint(0, scores.shape[1], shape, generator=generator).to(scores.device)
    return Samples(
        _mini_batches(inputs, target),
        functional.cross_entropy,
        lambda network, inputs: _scores_in(network(*inputs)),
        real=False,
        how=f"{count} random inputs with random labels (no data)",
        classes=True,
    )


# Under which name outputs with several tensors keep their class scores: transformers', torchvision's.
_SCORES = ("logits", "out")


def _scores_in(output: Any) -> Tensor | None:
    """Return the class scores (N, K, ...) of an output, of several tensors the one named so, or the first."""
    if isinstance(output, Mapping):
        named = [output[name] for name in _SCORES if name in output]
        return _scores_in([*named, *output.values()])
    many = output if isinstance(output, (tuple, list)) else [output]
    found = (x for x in many if isinstance(x, Tensor) and x.is_floating_point() and x.dim() >= 2)
    return next(found, None)


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    return f"a {type(output).__name__}"


def random_like(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` random inputs in the form of x (N, ...).

    They are standard-normal; of whole numbers ids that x holds, and pixels where x is a blank image of uint8.
    """
    shape = (count, *x.shape[1:])
    if x.is_floating_point():
        return torch.randn(shape, generator=generator, dtype=x.dtype).to(x.device)
    if x.dtype == torch.uint8 and x.dim() == IMAGES and bool((x == x.flatten()[0]).all()):
        return torch.randint(0, 256, shape, generator=generator, dtype=x.dtype).to(x.device)
    # Ids: any that the example shows to be valid.
    flat = x.flatten().cpu()
    return flat[torch.randint(0, len(flat), shape, generator=generator)].to(x.device)


def _mini_batches(inputs: tuple[Tensor, ...], target: Tensor, size: int = MINI_BATCH) -> tuple[Batch, ...]:
    return tuple(Batch(inputs, target).mini_batches(size))


def samples_of(
    data: Any, loss: Loss | None = None, forward: Forward | None = None, device: torch.device | None = None
) -> Samples:
    """Turn what a Python caller gives into samples.

    Args:
        data: (inputs, targets) tensors, or an iterable of such pairs; inputs may be a tuple of tensors.
        loss: (output, target) -> mean loss; cross entropy by default.
        forward: (network, inputs) -> output that ``loss`` takes.
        device: where the network is.

    Raises:
        InputError: there is nothing in it.
    """
    if not isinstance(data, Iterable):
        raise InputError(f"data is a {type(data).__name__}; {_EXPECTED}")
    pairs = (
        [data] if isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor) else list(data)
    )
    batches = mini_batches_of([_pair(pair, device) for pair in pairs])
    if not batches:
        raise InputError(f"data is empty; {_EXPECTED}")
    if loss is None:
        batches = tuple(replace(batch, target=_as_classes(batch.target)) for batch in batches)
    keywords: dict[str, Any] = {"forward": forward} if forward is not None else {}
    how = f"{sum(map(len, batches))} of the caller's own inputs"
    chosen = loss or functional.cross_entropy
    classes = loss is None and forward is None and not batches[0].target.is_floating_point()
    return Samples(batches, chosen, real=True, how=how, classes=classes, **keywords)


def _as_classes(target: Tensor) -> Tensor:
    """Return whole numbers of any size as cross entropy takes them, in int64, and others as they are."""
    return target.long() if target.dtype in WHOLE else target


def inputs_of(samples: Samples) -> tuple[Tensor, ...]:
    """Return the inputs of all mini-batches, joined."""
    return tuple(torch.cat(column) for column in zip(*(b.inputs for b in samples.batches), strict=True))


def _pair(pair: Any, device: torch.device | None) -> Batch:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[1], Tensor):
        raise InputError(f"data holds a {type(pair).__name__}; {_EXPECTED}")
    inputs, target = pair
    tensors = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if not all(isinstance(x, Tensor) and len(x) == len(target) for x in tensors):
        raise InputError(f"data holds inputs and targets that are no tensors of one length; {_EXPECTED}")
    return Batch(tuple(x.to(device) for x in tensors), target.to(device))
