from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from exporters.runtime.networks import Flat, flat, named_outputs, of_batch, run_outputs
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


class Boxes:
    def __init__(self, corners: Tensor) -> None:
        self.corners, self.count = corners, len(corners)


class HeadCache:
    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


class Several(nn.Module):
    """Returns what a detector, and what a decoder with a cache does."""

    def forward(self, x: Tensor) -> dict[str, object]:
        return {"boxes": Boxes(x + 1), "cache": HeadCache(x), "logits": x * 2}


def test_objects_are_named_by_their_attributes_and_caches_left_out() -> None:
    x = torch.ones(2, 3)
    assert list(run_outputs(Several(), (x,))) == ["boxes_corners", "logits"]
    assert named_outputs(HeadCache(x)) == {}


def test_what_no_exporter_takes_is_returned_in_one_tuple() -> None:
    model, x = Several(), torch.ones(2, 3)
    one = flat(model, (x,))
    assert isinstance(one, Flat)
    corners, logits = one(x)
    assert torch.equal(corners, x + 1)
    assert torch.equal(logits, x * 2)
    plain = nn.Linear(3, 2)
    assert flat(plain, (x,)) is plain
