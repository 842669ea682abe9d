"""What scores a network: inputs and targets in mini-batches, with the loss that goes with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from structprune.distributed import SINGLE_PROCESS, ProcessGroup
from structprune.errors import InputError, UsageError
from structprune.nn.batch_norm import buffers_kept, evaluating
from structprune.scoring.losses import (
    Loss,
    NoLoss,
    Objective,
    check_name,
    fitting,
    random_targets,
    without_targets,
)
from structprune.scoring.predictions import Calls, part_of, watched
from structprune.scoring.sampling import MINI_BATCH, Batch, mini_batches_of

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
        objective: the loss in words, and why it is this one.
        notable: whether a reader of the report must be told which loss it is.
    """

    batches: tuple[Batch, ...]
    loss: Loss
    forward: Forward = lambda network, inputs: network(*inputs)
    real: bool = True
    how: str = "data"
    classes: bool = False
    crew: ProcessGroup = SINGLE_PROCESS
    objective: str = "cross entropy"
    notable: bool = False


def random_samples(
    model: nn.Module,
    example: tuple[Tensor, ...],
    count: int = DEFAULT_SAMPLES,
    seed: int = 0,
    loss: str | None = None,
    forward: Forward | None = None,
) -> Samples:
    """Return standard-normal inputs with random targets, for a network without data.

    Targets are classes where the network puts out floating-point scores of two or more, drawn uniformly; of
    other outputs numbers of their shape, drawn as the inputs are. Where no loss is known for the output, the
    samples have a :class:`~structprune.scoring.losses.NoLoss`: there are scores that take none.

    Args:
        model: the network.
        example: positional inputs, (N, ...) each.
        count: how many samples.
        seed: of inputs and targets.
        loss: ``cross-entropy``, ``mse``, ``bce``, or None for the one that fits.
        forward: (network, inputs) -> output that the loss takes; by default the network's own.

    Raises:
        InputError: the network can't run on the example, or its output doesn't go with the loss.
        UsageError: there is no such loss, or too few samples are asked for.
    """
    if count < 2:
        raise UsageError(f"{count} samples are too few to score on; give at least 2, better 64")
    check_name(loss)
    generator = torch.Generator().manual_seed(seed)
    inputs = tuple(random_like(x, count, generator) for x in example)
    run = forward or _plain
    layers, output = _probed(model, tuple(x[:2] for x in inputs), run)
    try:
        objective = without_targets(output, layers, loss)
    except InputError as error:
        if loss is not None:
            raise
        nothing = torch.zeros(count, dtype=torch.long)
        return Samples(
            _mini_batches(inputs, nothing),
            NoLoss(str(error)),
            run,
            real=False,
            how=f"{count} random inputs (no data)",
            objective="no loss",
        )
    target = random_targets(objective, part_of(output)[1], count, generator)
    what = "labels" if objective.classes else "targets"
    return Samples(
        _mini_batches(inputs, target),
        objective.loss,
        _arranged(objective, run),
        real=False,
        how=f"{count} random inputs with random {what} (no data)",
        classes=objective.name == "cross-entropy" and forward is None,
        objective=objective.words,
        notable=not objective.plain,
    )


def _plain(network: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Any:
    return network(*inputs)


def _arranged(objective: Objective, run: Forward) -> Forward:
    return lambda network, inputs: objective.arrange(run(network, inputs))


def _probed(model: nn.Module, inputs: tuple[Tensor, ...], run: Forward) -> tuple[Calls, Any]:
    """Run a network on a few inputs, and note its layers in the order in which they ran."""
    model = copy.deepcopy(
        model
    )  # which may keep a result, and with it the graph that tells its last operation
    try:
        with evaluating(model), buffers_kept(model), watched(model) as layers:
            return layers, run(model, inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        shapes = [tuple(x.shape) for x in inputs]
        raise InputError(
            f"the network can't run on an example of shape {shapes}: {reason}; give one that it takes"
        ) from error


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


def inputs_like(example: tuple[Tensor, ...], count: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs in the form of an example: on a blank one much comes out right that isn't."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(random_like(x, count, generator) if x.dim() else x for x in example)


def _mini_batches(inputs: tuple[Tensor, ...], target: Tensor, size: int = MINI_BATCH) -> tuple[Batch, ...]:
    return tuple(Batch(inputs, target).mini_batches(size))


def samples_of(
    data: Any,
    loss: Loss | str | None = None,
    forward: Forward | None = None,
    device: torch.device | None = None,
) -> Samples:
    """Turn what a Python caller gives into samples.

    Args:
        data: (inputs, targets) tensors, or an iterable of such pairs; inputs may be a tuple of tensors.
        loss: (output, target) -> mean loss; by default cross entropy, until :func:`fitted` has seen what
            the network puts out.
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
    own = loss if callable(loss) else None
    if own is None:
        batches = tuple(replace(batch, target=_as_classes(batch.target)) for batch in batches)
    keywords: dict[str, Any] = {"forward": forward} if forward is not None else {}
    how = f"{sum(map(len, batches))} of the caller's own inputs"
    classes = (
        loss in (None, "cross-entropy") and forward is None and not batches[0].target.is_floating_point()
    )
    words = "cross entropy" if own is None else f"the caller's own loss, {_name_of(own)}"
    chosen = own or functional.cross_entropy
    return Samples(batches, chosen, real=True, how=how, classes=classes, objective=words, **keywords)


def _name_of(loss: Loss) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))


def fitted(samples: Samples, output: object, name: str | None = None) -> Samples:
    """Return samples with the loss that fits the network's output and their targets.

    Args:
        samples: of a caller who gave no loss of their own.
        output: of the first few inputs, with its graph.
        name: of the loss that is asked for, or None.

    Raises:
        InputError: none fits, or several do.
    """
    targets = [batch.target for batch in samples.batches]
    return _laid_out(samples, fitting(output, targets, name))


def fitted_by_layers(samples: Samples, output: object, layers: Calls) -> Samples:
    """Return samples whose classes lie along the axis that layers tell; targets are not looked at."""
    return _laid_out(samples, without_targets(output, layers, "cross-entropy"), keep=True)


def _laid_out(samples: Samples, objective: Objective, keep: bool = False) -> Samples:
    batches = samples.batches
    if not keep:
        batches = tuple(replace(batch, target=objective.adapt(batch.target)) for batch in batches)
    return replace(
        samples,
        batches=batches,
        loss=objective.loss,
        forward=_arranged(objective, samples.forward),
        objective=objective.words,
        notable=not objective.plain,
    )


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
