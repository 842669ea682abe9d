"""Learning from a network beside learning from labels (arXiv:1503.02531)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from structprune.data import classification
from structprune.nn.batch_norm import evaluating

TEMPERATURE = 4.0
"""By which both networks' scores are divided before they become shares of the classes."""
TAUGHT = 0.5
"""The weight of the teacher's shares; the labels have the rest."""
CLIP = 1.0
"""The largest norm of the gradient while a teacher teaches."""

LossOf = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(network, images, labels) -> mean loss."""


def labelled(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of the labels."""
    return classification.loss(model(images), labels)


def taught_by(teacher: nn.Module) -> LossOf:
    """Return a loss that is made of labels and of what a teacher says of the same images.

    Args:
        teacher: of the same classes; it runs in evaluation mode, on the images' device, and never changes.
    """

    def loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad(), evaluating(teacher):
            said_NK = classification.logits(teacher(images))
        output = model(images)
        soft = soft_loss(classification.logits(output), said_NK)
        return (1 - TAUGHT) * classification.loss(output, labels) + TAUGHT * soft

    return loss


def soft_loss(student_NK: Tensor, teacher_NK: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return T KL(p || q), p and q the softmax of the teacher's and the student's scores over T.

    Its derivative by the student's scores is q - p, which like that of cross entropy is below 1 whatever the
    scores are: with the usual factor T^2 it would be T (q - p), so that a teacher of large scores, whose p is
    nearly a label, would count T times as much as the labels do.

    Args:
        student_NK: class scores (N, K).
        teacher_NK: those of the teacher.
        temperature: T.
    """
    shares_NK = (teacher_NK / temperature).log_softmax(1)
    learned_NK = (student_NK / temperature).log_softmax(1)
    return temperature * functional.kl_div(learned_NK, shares_NK, reduction="batchmean", log_target=True)
