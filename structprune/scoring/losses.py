"""Which loss an output and its targets go with, along which axis, and how that is said.

Whole numbers are classes, and their axis is the one without which the output has the targets' shape. Floating
point targets are shares of classes, zeros and ones, or numbers of the output's own shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from structprune.errors import InputError, UsageError
from structprune.scoring.predictions import NAMED, Calls, axis_of_classes, ends_in_sigmoid, part_of

Loss = Callable[[Any, Any], Tensor]
Shape = tuple[int, ...]

WORDS: Mapping[str, str] = {
    "cross-entropy": "cross entropy",
    "mse": "mean squared error",
    "bce": "binary cross entropy",
}
"""Losses that may be asked for by name."""

IGNORED = -100
"""The class that cross entropy leaves out."""
SLACK = 1e-3
"""How far shares of classes may be off 1 in sum; ten times as far in half precision."""


@dataclass(frozen=True)
class NoLoss:
    """Stand-in for the loss of an output for which none is known; whoever takes it is told why."""

    why: str

    def __call__(self, output: object, target: object) -> Tensor:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.why}; choose a score that takes no loss, such as filter_norm or ntk_sap, or name a loss; "
            "from Python, give data=, loss= and forward="
        )


@dataclass(frozen=True)
class Objective:
    """A loss that fits, and how outputs and targets are laid out for it.

    Attributes:
        name: one of :data:`WORDS`.
        loss: (output, target) -> mean loss, of what ``arrange`` and ``adapt`` return.
        words: the loss and why it is this one.
        adapt: target -> target in the form that the loss takes.
        axis: of the classes, in the network's own output; the arranged output has them along axis 1.
        classes: how many, or None where the targets are no classes.
        plain: whether it is what everybody expects: classes (N,) of an output (N, K).
    """

    name: str
    loss: Loss
    words: str
    adapt: Callable[[Tensor], Tensor]
    axis: int = 1
    classes: int | None = None
    plain: bool = False

    def arrange(self, output: Any) -> Tensor:
        """Return the tensor that the loss takes, its classes along axis 1."""
        _, tensor = part_of(output)
        return tensor if self.axis == 1 else tensor.movedim(self.axis, 1)


# Which loss -----------------------------------------------------------------------------------------------


def fitting(output: object, targets: Sequence[Tensor], name: str | None = None) -> Objective:
    """Return the loss that goes with an output and its targets.

    Args:
        output: of a few inputs, with the graph that made it, by which a sigmoid at its end is seen.
        targets: those of all mini-batches.
        name: one of :data:`WORDS`, or None: the one that fits.

    Raises:
        InputError: none fits, or more than one; the sentence says what to give.
        UsageError: there is no loss of that name.
    """
    check_name(name)
    entry, tensor = part_of(output)
    chosen = name or _told_by(tensor, targets)
    objective = _BUILD[chosen](tensor, targets, name is not None)
    which = (
        f" of the output's {entry!r}"
        if entry in NAMED
        else f" of part {entry} of the output"
        if entry
        else ""
    )
    return replace(objective, words=f"{objective.words},{which}", plain=False) if which else objective


def check_name(name: str | None) -> None:
    """Refuse a loss that nobody knows.

    Raises:
        UsageError: naming those that are known.
    """
    if name is not None and name not in WORDS:
        raise UsageError(f"unknown loss {name!r}; known: {', '.join(WORDS)}")


def _told_by(output: Tensor, targets: Sequence[Tensor]) -> str:
    first = targets[0]
    if not first.is_floating_point() and (first.dtype != torch.bool or not _alike(output, first)):
        return "cross-entropy"
    if not _alike(output, first):
        raise _misfit(output, first, "any loss that is known")
    if _share_axes(targets):
        return "cross-entropy"
    return "bce" if all(bool(((t == 0) | (t == 1)).all()) for t in targets) else "mse"


def _cross_entropy(output: Tensor, targets: Sequence[Tensor], asked: bool) -> Objective:
    shares = targets[0].is_floating_point()
    axes = _share_axes(targets) if shares else class_axes(output, targets[0])
    if shares and _alike(output, targets[0]) and asked and not axes:
        axes = [1]
    if not axes:
        raise _misfit(output, targets[0], "cross entropy")
    axis = _one_of(axes, output, asked)
    classes = output.shape[axis]
    if classes < 2:
        raise InputError(
            f"cross entropy over one class is always zero: the output for {len(output)} inputs is "
            f"{tuple(output.shape)}; give targets as floating-point numbers, or the loss 'bce' or 'mse'"
        )
    plain = output.dim() == 2 and not shares
    along = "" if output.dim() == 2 else f" over the {classes} classes along axis {axis} of the output"
    since = f", since targets are shares of {classes} classes that sum to 1" if shares and not asked else ""

    def adapt(target: Tensor) -> Tensor:
        if shares:
            return target.reshape(-1, *output.shape[1:]).movedim(axis, 1).to(output.dtype)
        return target.long()

    words = f"{WORDS['cross-entropy']}{along}{since}"
    return Objective("cross-entropy", functional.cross_entropy, words, adapt, axis, classes, plain)


def _one_of(axes: Sequence[int], output: Tensor, asked: bool) -> int:
    if len(axes) == 1 or (asked and axes[0] == 1):
        return axes[0]
    raise InputError(
        f"axes {' and '.join(map(str, axes))} of the output, (N, {_listed(output.shape[1:])}), may both be "
        "the classes; give loss=: 'cross-entropy' takes axis 1, a function whichever it likes"
    )


def _numbers(name: str, loss: Loss, since: str) -> Callable[[Tensor, Sequence[Tensor], bool], Objective]:
    """Return what builds a loss of targets that have the output's shape; classes are laid out as ones."""

    def build(output: Tensor, targets: Sequence[Tensor], asked: bool) -> Objective:
        axes = [] if targets[0].is_floating_point() else class_axes(output, targets[0])
        of_classes = not _alike(output, targets[0])
        if of_classes and (len(axes) != 1 or output.shape[axes[0]] < 2):
            raise _misfit(output, targets[0], WORDS[name])

        def adapt(target: Tensor) -> Tensor:
            if of_classes:
                classes = output.shape[axes[0]]
                target = functional.one_hot(target.long(), classes).movedim(-1, axes[0])
            return target.to(output.dtype)

        words = f"{WORDS[name]}{'' if asked else since}"
        return Objective(name, loss, words, adapt, classes=output.shape[axes[0]] if of_classes else None)

    return build


def _binary(output: Tensor, targets: Sequence[Tensor], asked: bool) -> Objective:
    if any(bool((t < 0).any() or (t > 1).any()) for t in targets if t.is_floating_point()):
        raise InputError("binary cross entropy takes targets from 0 to 1, and those of data go beyond")
    of_shares = ends_in_sigmoid(output)
    since = ", since targets are zeros and ones" + (" and the network ends in a sigmoid" if of_shares else "")
    return _numbers("bce", bce_of_shares if of_shares else bce, since)(output, targets, asked)


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error; a target (N,) of an output (N, 1), and the other way round, is laid out like it."""
    return functional.mse_loss(output, target.reshape(output.shape))


def bce(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of scores before a sigmoid."""
    return functional.binary_cross_entropy_with_logits(output, target.reshape(output.shape))


def bce_of_shares(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of what a sigmoid has put between 0 and 1."""
    return functional.binary_cross_entropy(output, target.reshape(output.shape))


_BUILD: Mapping[str, Callable[[Tensor, Sequence[Tensor], bool], Objective]] = {
    "cross-entropy": _cross_entropy,
    "mse": _numbers("mse", mse, ", since targets are numbers of the output's shape"),
    "bce": _binary,
}


# Without targets ------------------------------------------------------------------------------------------


def without_targets(output: object, layers: Calls, name: str | None = None) -> Objective:
    """Return the loss of random targets: cross entropy where there are classes, else mean squared error.

    Args:
        output: of a few inputs.
        layers: that ran; of an output of three axes or more the last one tells which is the classes'.
        name: of the loss that is asked for, or None.

    Raises:
        InputError: no loss is known for the output, or the one asked for doesn't fit.
    """
    _, tensor = part_of(output)
    axis = axis_of_classes(tensor, layers)
    classes = tensor.shape[axis] if axis < tensor.dim() else 1
    chosen = name or ("cross-entropy" if classes > 1 else "mse")
    if chosen != "cross-entropy":
        like = [torch.zeros_like(tensor)]
        found = fitting(output, like, chosen)
        return replace(found, words=f"{WORDS[chosen]} of random targets", classes=None)
    like = [torch.zeros((len(tensor), *tensor.shape[1:axis], *tensor.shape[axis + 1 :]), dtype=torch.long)]
    found = fitting(output, like, chosen) if axis == 1 else _along(output, axis, classes)
    return replace(found, plain=found.axis == 1)


def _along(output: object, axis: int, classes: int) -> Objective:
    words = f"{WORDS['cross-entropy']} over the {classes} classes along axis {axis} of the output"
    return Objective("cross-entropy", functional.cross_entropy, words, lambda t: t, axis, classes)


def random_targets(objective: Objective, output: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw as many targets as there are inputs, on the CPU, and put them where the output is."""
    if objective.name == "cross-entropy":
        rest = [size for axis, size in enumerate(output.shape) if axis not in (0, objective.axis)]
        drawn = torch.randint(0, objective.classes or 1, (count, *rest), generator=generator)
        return drawn.to(output.device)
    shape = (count, *output.shape[1:])
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (numbers if objective.name == "mse" else numbers > 0).to(output.device, output.dtype)


# Shapes and values ----------------------------------------------------------------------------------------


def class_axes(output: Tensor, target: Tensor) -> list[int]:
    """Return the axes of an output (N, ...) without which it has the targets' shape; never the first.

    Example:
        >>> class_axes(torch.zeros(2, 7, 50), torch.zeros(9, 7))
        [2]
        >>> class_axes(torch.zeros(2, 7, 7), torch.zeros(9, 7))
        [1, 2]
    """
    shape = tuple(output.shape)
    wanted = tuple(target.shape[1:])
    return [axis for axis in range(1, len(shape)) if shape[1:axis] + shape[axis + 1 :] == wanted]


def _alike(output: Tensor, target: Tensor) -> bool:
    """Tell whether both have the same shape but for axes of size 1."""
    return _without_ones(output.shape[1:]) == _without_ones(target.shape[1:])


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _share_axes(targets: Sequence[Tensor]) -> list[int]:
    """Return the axes of two entries or more over which targets within [0, 1] sum to 1 everywhere."""
    first = targets[0]
    slack = SLACK if torch.finfo(first.dtype).eps < SLACK / 10 else 10 * SLACK
    if any(bool((t < -slack).any() or (t > 1 + slack).any()) for t in targets):
        return []

    def sums_to_one(axis: int) -> bool:
        return all(bool(((t.double().sum(axis) - 1).abs() <= slack).all()) for t in targets)

    return [axis for axis in range(1, first.dim()) if first.shape[axis] > 1 and sums_to_one(axis)]


def _misfit(output: Tensor, target: Tensor, loss: str) -> InputError:
    kind, shape = str(target.dtype).removeprefix("torch."), _listed(target.shape[1:])
    return InputError(
        f"{loss} doesn't take {tuple(output.shape)}, the output for {len(output)} inputs, with targets "
        f"{kind} of shape (N{', ' if shape else ','}{shape}); give classes (N,) from 0 on, floating-point "
        "numbers of the output's shape, or loss= and forward="
    )


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))
