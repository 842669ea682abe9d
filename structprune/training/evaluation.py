"""How good a network is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from structprune.data import classification
from structprune.errors import InputError
from structprune.nn.batch_norm import evaluating
from structprune.nn.devices import device_of


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the top-1 accuracy, between 0 and 1, in evaluation mode; the network is left as it was.

    Args:
        model: puts out class scores (N,K).
        batches: images (N,C,H,W) and labels (N,); moved to the network's device.

    Raises:
        InputError: there are no images, a label is out of the network's range, or the output is not (N,K).
    """
    device = device_of(model)
    seen = correct = 0
    with evaluating(model):
        for images, labels in batches:
            correct += classification.correct(model(images.to(device)), labels.to(device))
            seen += len(labels)
    if seen == 0:
        raise InputError("no images to take the accuracy on; expected at least one")
    return correct / seen
