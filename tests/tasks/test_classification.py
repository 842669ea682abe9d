from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch

from structprune.data import ImageSet, check_labels
from structprune.data.classification import correct, loss
from structprune.errors import InputError

Outputs = namedtuple("Outputs", ["logits", "aux"])


def test_loss_and_count_of_a_batch_by_hand() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    expected = [np.log(1 + np.exp(-2)), np.log(1 + np.exp(1)), np.log(1 + np.exp(2))]
    assert loss(scores, labels).item() == pytest.approx(np.mean(expected))
    assert correct(scores, labels) == 1
    assert correct(Outputs(scores, None), labels) == 1


@pytest.mark.parametrize("judge", [loss, correct])
def test_what_does_not_fit_is_refused(judge: object) -> None:
    assert callable(judge)
    with pytest.raises(InputError, match="go up to 4 and the network has 4 outputs"):
        judge(torch.zeros(2, 4), torch.tensor([0, 4]))
    with pytest.raises(InputError, match="puts out a dict"):
        judge({"out": torch.zeros(2, 4)}, torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"shape \(2, 4, 8, 8\)"):
        judge(torch.zeros(2, 4, 8, 8), torch.tensor([0, 1]))


def test_labels_are_checked_before_any_work() -> None:
    images = ImageSet(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 9]), tuple("abcdefghij"), "ten")
    check_labels(images, 10)
    with pytest.raises(InputError, match="the labels of ten go up to 9 and the network has 9 outputs"):
        check_labels(images, 9)
