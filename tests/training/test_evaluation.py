from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from structprune.errors import InputError
from structprune.training import evaluate
from tests.networks import TinyConvBN, example


def labelled(count: int) -> list[tuple[Tensor, Tensor]]:
    inputs, labels = example(TinyConvBN, count), torch.arange(count) % 3
    return list(zip(torch.split(inputs, 4), torch.split(labels, 4), strict=True))


def test_accuracy_is_that_of_one_image_at_a_time() -> None:
    model, batches = TinyConvBN().eval(), labelled(10)
    right = [
        model(x[None]).argmax().item() == y
        for xs, ys in batches
        for x, y in zip(xs, ys.tolist(), strict=True)
    ]
    assert 0 < sum(right) < 10
    assert evaluate(model, iter(batches)) == sum(right) / 10


def test_the_network_is_left_as_it_was() -> None:
    model = TinyConvBN().train()
    model.bn2.eval()
    before = copy.deepcopy(model.state_dict())
    evaluate(model, labelled(10))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {name for name, module in model.named_modules() if not module.training} == {"bn2"}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_come_back_after_an_error() -> None:
    model = TinyConvBN().train()
    with pytest.raises(InputError, match="go up to 9 and the network has 3 outputs"):
        evaluate(model, [(example(TinyConvBN), torch.tensor([0, 1, 2, 9]))])
    assert all(module.training for module in model.modules())


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        evaluate(TinyConvBN(), [])
