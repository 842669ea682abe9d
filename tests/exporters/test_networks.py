from __future__ import annotations

import pytest
import torch
from torch import Tensor

from exporters.networks import named_outputs, of_batch
from structprune.errors import InputError


def test_an_example_is_repeated_in_order_and_cut() -> None:
    example = (torch.arange(6).reshape(3, 2), torch.tensor(7))
    longer, shorter = of_batch(example, 7), of_batch(example, 2)
    assert longer[0][:, 0].tolist() == [0, 2, 4, 0, 2, 4, 0]
    assert shorter[0].tolist() == [[0, 1], [2, 3]]
    assert longer[1].item() == 7


@pytest.mark.parametrize("example", [(), (torch.ones(0, 3),)])
def test_no_input_makes_no_batch(example: tuple[Tensor, ...]) -> None:
    with pytest.raises(InputError, match="give at least one input"):
        of_batch(example, 2)


def test_outputs_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="returns a str"):
        named_outputs("logits")
