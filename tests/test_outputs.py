"""What a network returns, taken apart into its tensors and a description of all else."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from structprune.errors import InputError
from structprune.nn.outputs import counterpart, outputs_of, tensors_of


class Layer:
    def __init__(self, keys: Tensor, length: int) -> None:
        self.keys, self.length, self.scale = keys, length, 0.5


class Ring:
    """Without an equality of its own, and with a way back to itself."""

    def __init__(self, seed: int, layers: int = 2, length: int = 3) -> None:
        torch.manual_seed(seed)
        self.layers = [Layer(torch.randn(2, length), length) for _ in range(layers)]
        self.first = self.layers[0]
        self.owner = self

    def __eq__(self, other: object) -> bool:
        raise AssertionError("nobody asks an object")

    __hash__ = None  # type: ignore[assignment]


class Slotted:
    __slots__ = ("state", "unset")

    def __init__(self, state: Tensor) -> None:
        self.state = state


@dataclasses.dataclass
class Boxes:
    corners: Tensor
    labels: list[str]
    scores: Tensor | None = None


Pair = collections.namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (torch.ones(2), ("",)),
        ((torch.ones(2), [torch.ones(1)]), ("0", "1.0")),
        ({"b": torch.ones(1), "a": None}, ("b",)),
        (Boxes(torch.ones(1), ["cat"]), ("corners",)),
        (Pair(torch.ones(1), 3), ("0",)),
        (collections.UserDict({"x": torch.ones(1)}), ("x",)),
        (collections.deque([torch.ones(1)]), ("0",)),
        (Slotted(torch.ones(1)), ("state",)),
        (torch.distributions.Normal(torch.zeros(2), torch.ones(2)), ("loc", "scale")),
        (nn.utils.rnn.pack_sequence([torch.ones(3, 2)]), ("0", "1")),
        (Ring(0), ("layers.0.keys", "layers.0.scale", "layers.1.keys", "layers.1.scale")),
        ((np.ones(2), 0.5, 1j), ("0", "1", "2")),
        (3, ()),
    ],
)
def test_tensors_are_found_in_anything(value: Any, names: tuple[str, ...]) -> None:
    found = outputs_of(value)
    if isinstance(value, Ring):  # what comes up again is not listed again, whichever comes first
        assert sorted(n.replace("first", "layers.0") for n in found.names) == sorted(names)
    else:
        assert tuple(n for n in found.names if not n.startswith("_")) == names
    assert len(found.tensors) == len(found.names)
    assert all(isinstance(x, Tensor) for x in tensors_of(value))


def test_objects_are_alike_where_they_are_built_alike() -> None:
    assert outputs_of(Ring(0)).structure == outputs_of(Ring(1)).structure
    assert not torch.equal(tensors_of(Ring(0))[0], tensors_of(Ring(1))[0])
    assert outputs_of(Ring(0)).structure != outputs_of(Ring(0, layers=3)).structure
    assert outputs_of(Ring(0)).structure != outputs_of(Ring(0, length=4)).structure


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((torch.ones(1),), [torch.ones(1)]),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}),
        ((torch.ones(1), 3), (torch.ones(1), 4)),
        ((torch.ones(1), None), (torch.ones(1), torch.ones(1))),
        (float("inf"), float("nan")),
        (Boxes(torch.ones(1), ["cat"]), Boxes(torch.ones(1), ["dog"])),
        ({1, 2}, {1, 3}),
    ],
)
def test_other_structures_differ(one: Any, other: Any) -> None:
    assert outputs_of(one).structure != outputs_of(other).structure


def test_a_networks_own_parts_are_no_outputs() -> None:
    assert tensors_of((nn.Linear(2, 2), torch.relu, Tensor)) == []


def test_what_python_computes_counts_as_a_tensor() -> None:
    """A float differs in its last digits between networks that compute the same."""
    assert outputs_of((0.1 + 0.2,)).structure == outputs_of((0.3,)).structure
    assert torch.allclose(tensors_of((0.1 + 0.2,))[0], tensors_of((0.3,))[0])


def test_a_generator_is_not_used_up() -> None:
    steps = iter([torch.ones(1)])
    assert tensors_of(steps) == []
    assert len(list(steps)) == 1


def test_a_chain_without_end_is_refused() -> None:
    value: Any = []
    for _ in range(300):
        value = [value]
    with pytest.raises(InputError, match="levels"):
        outputs_of(value)


class KeysAndValues:
    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


class HeadCache:
    def __init__(self, *keys: Tensor) -> None:
        self.layers = [KeysAndValues(x) for x in keys]


class OwnCache(HeadCache):
    """Of a user's own, by the name of what it derives from."""


@pytest.mark.parametrize("kind", [HeadCache, OwnCache, type("State", (HeadCache,), {})])
def test_a_cache_is_state_and_no_result(kind: type[HeadCache]) -> None:
    found = outputs_of((torch.ones(1), kind(torch.ones(2), torch.zeros(3))))
    assert found.names == ("0",)
    assert {name: len(x) for name, x in found.states.items()} == {"1.layers.0.keys": 2, "1.layers.1.keys": 3}
    smaller = outputs_of((torch.ones(1), kind(torch.ones(1), torch.zeros(2))))
    assert found.structure == smaller.structure


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_states_of_fewer_heads_are_found_in_those_of_more(dim: int) -> None:
    torch.manual_seed(0)
    whole = torch.randn(4, 5, 6).movedim(1, dim)
    part = whole.index_select(dim, torch.tensor([0, 2, 4]))
    found = counterpart(whole, part + 1e-6)
    assert found is not None
    assert torch.equal(found, part)
    swapped = counterpart(whole, part.flip(dim))
    assert swapped is not None
    assert not torch.allclose(swapped, part.flip(dim), atol=1e-3)


def test_states_of_other_shapes_have_no_counterpart() -> None:
    assert counterpart(torch.ones(4, 5), torch.ones(3, 4)) is None
    assert counterpart(torch.ones(4, 5), torch.ones(5, 5)) is None
    assert counterpart(torch.ones(4), torch.ones(4, 1)) is None
