"""Image classification: what the loss is, what counts as right, and what does not fit together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from structprune.data.images import ImageSet
from structprune.errors import InputError


def logits(outputs: object) -> Tensor:
    """Return the (N,K) class scores in what a network put out.

    Auxiliary heads (torchvision's GoogLeNet in training mode) and wrapped outputs carry them as ``.logits``.

    Raises:
        InputError: the output is no (N,K) tensor of scores.
    """
    found = getattr(outputs, "logits", outputs)
    if not isinstance(found, Tensor):
        raise InputError(f"the network puts out a {type(found).__name__}; expected class scores (N, K)")
    if found.dim() != 2:
        raise InputError(
            f"the network puts out a tensor of shape {tuple(found.shape)}; expected class scores (N, K)"
        )
    return found


def loss(outputs: object, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of a batch, a scalar.

    Raises:
        InputError: the output is no (N,K) tensor, or a label is K or more.
    """
    scores_NK = logits(outputs)
    _check_range(labels, scores_NK.shape[1])
    return functional.cross_entropy(scores_NK, labels)


def correct(outputs: object, labels: Tensor) -> int:
    """Count the images whose largest score is their label's.

    Raises:
        InputError: the output is no (N,K) tensor, or a label is K or more.
    """
    scores_NK = logits(outputs)
    _check_range(labels, scores_NK.shape[1])
    return int(torch.count_nonzero(scores_NK.argmax(1) == labels))


def check_labels(images: ImageSet, outputs: int) -> None:
    """Refuse images of a class that the network has no output for.

    Args:
        images: what is to be classified.
        outputs: K, the network's class scores.

    Raises:
        InputError: a label is ``outputs`` or more.
    """
    _check_range(torch.from_numpy(images.labels), outputs, images.name)


def _check_range(labels: Tensor, outputs: int, name: str = "the data") -> None:
    largest = int(labels.max())
    if largest >= outputs:
        raise InputError(
            f"the labels of {name} go up to {largest} and the network has {outputs} outputs; "
            f"expected labels from 0 to {outputs - 1}"
        )
