from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from exporters.data_reads import data_reads

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 3.0, -2.5]])
WEIGHT = torch.ones(3)

Body = Callable[[Tensor], object]


READS: dict[str, Body] = {
    "__bool__": lambda x: 1 if x.sum() > 0 else 2,
    "item": lambda x: x.max().item(),
    "__float__": lambda x: float(x.max()),
    "__int__": lambda x: int(x.max()),
    "__index__": lambda x: range(x.max().long()),
    "tolist": lambda x: (x * 2).tolist(),
    "numpy": lambda x: (x + 1).numpy(),
    "__array__": lambda x: np.asarray(x.view(-1)),
    "__contains__": lambda x: 3 in x,
    "is_nonzero": lambda x: torch.is_nonzero(x.sum()),
    "equal": lambda x: torch.equal(x, x.abs()),
    "allclose": lambda x: torch.allclose(x, x.abs()),
    "shape": lambda x: x[x > 0].shape[0] > 3,
    "__len__": lambda x: len(x.nonzero()),
}


@pytest.mark.parametrize("name", READS)
def test_what_reads_values_of_the_inputs_is_seen(name: str) -> None:
    _, reads = data_reads(lambda: READS[name](X), (X,))
    assert reads.seen == {name}
    assert reads.silent == reads.seen & {"equal", "allclose"}


def test_values_are_followed_through_views_and_changes_in_place() -> None:
    def body() -> bool:
        buffer = torch.zeros(2, 3)
        buffer[:, 1:] = X[:, 1:]
        return bool(buffer.view(-1)[1] > 0)

    assert data_reads(body, (X,))[1].seen == {"__bool__"}


SILENT: dict[str, Body] = {
    "a weight": lambda x: bool(WEIGHT[0] > 0),
    "a shape": lambda x: x.shape[0] > 1 and len(x) == 2,
    "a mask of ones": lambda x: bool(torch.ones_like(x).all()),
    "a slice up to a tensor": lambda x: x[: x.max().long()],
    "one hot": lambda x: functional.one_hot(x.long().abs()),
    "values chosen and summed": lambda x: x[x > 0].sum(),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_reads_no_values_of_the_inputs_is_not(name: str) -> None:
    assert data_reads(lambda: SILENT[name](X), (X,))[1].seen == set()
