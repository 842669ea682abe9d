"""Which weights a file holds: a training script keeps several, beside much that is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from structprune.errors import InputError
from structprune.files import shown
from structprune.models.averages import (
    SHADOW,
    as_state,
    average_inside,
    average_prefix,
    named_like,
    says_average,
    swapped,
)
from structprune.models.prefixes import common_prefix
from structprune.models.tensors import check_kinds, check_network, inner_network, is_weight

State = dict[str, Tensor]

# Keys under which training scripts keep the state dict, in the order in which they are taken.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "module")
OPTIMISERS = ("optim", "sched", "scaler")
DEEPEST = 5

WEIGHTS = "give the weights: a state dict in .pt, .pth, .safetensors or .npz, or the whole network pickled"


@dataclass(frozen=True)
class WeightSet:
    """Weights of one network, or of several under one mapping.

    Attributes:
        content: a network, or name -> tensor.
        place: keys that lead to it, outermost first.
        averaged: whether they are averages over training.
        beside: entries of the same mapping that are no tensors.
    """

    content: nn.Module | State
    place: tuple[str, ...] = ()
    averaged: bool = False
    beside: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The place in words."""
        return shown(".".join(self.place))

    @property
    def tensors(self) -> Iterable[Tensor]:
        """All of them."""
        state = self.content.state_dict() if isinstance(self.content, nn.Module) else self.content
        return state.values()


def weight_sets(content: Any, name: str, no_ema: bool = False) -> tuple[WeightSet, ...]:
    """Find the weights in what a file holds.

    Args:
        content: a network, a state dict, or a dict of a training script around such.
        name: of the file, for messages.
        no_ema: leave averages out.

    Returns:
        Averages first, in the order in which they are to be tried; then those that are none.

    Raises:
        InputError: there are none, or averages only.
    """
    if not isinstance(content, (Mapping, nn.Module)):
        raise InputError(f"{name} holds a {type(content).__name__}; {WEIGHTS}")
    whole = list(_sets(content, (), set()))
    for each in whole:
        _check(each, name)
    sets = [part for each in whole for part in _parted(each)]
    if not sets:
        raise InputError(f"{name} holds {_oddity(content)} where a state dict has weights; {WEIGHTS}")
    plain = _best(each for each in sets if not each.averaged)
    averages = [whole for each in sets if each.averaged for whole in _completed(each, plain)]
    if no_ema and not plain:
        raise InputError(f"{name} holds moving averages (EMA) only, under {averages[0].where!r}; take these")
    return tuple(plain if no_ema else [*averages, *plain])


def _check(each: WeightSet, name: str) -> None:
    if isinstance(each.content, nn.Module):
        check_network(each.content, name)
    else:
        check_kinds(each.content, name)


def _sets(content: Any, place: tuple[str, ...], seen: set[int]) -> Iterator[WeightSet]:
    """Yield all weights below one entry; a mapping that is reached twice is walked through once."""
    averaged = any(map(says_average, place))
    if isinstance(content, nn.Module):
        yield WeightSet(inner_network(content), place, averaged)
    if not isinstance(content, Mapping) or len(place) > DEEPEST or "param_groups" in content:
        return
    walked = id(content) in seen
    seen.add(id(content))
    plain_key = swapped(content)
    for key, value in () if walked else content.items():
        if not isinstance(key, str) or any(word in key.lower() for word in OPTIMISERS):
            continue
        if key == SHADOW and isinstance(value, (list, tuple)):
            yield WeightSet(as_state(value), (*place, key), averaged=True)
        swaps = plain_key is not None and key in (plain_key, "state_dict")
        for each in _sets(value, (*place, key), seen):
            yield replace(each, averaged=key != plain_key) if swaps else each
    state = {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if any(map(is_weight, state.values())):
        beside = tuple(str(key) for key in content if key not in state)
        yield WeightSet(state, place, averaged, beside)


def _parted(each: WeightSet) -> Iterator[WeightSet]:
    """Averages that lie among the weights of a state dict are weights of their own."""
    prefix = None if isinstance(each.content, nn.Module) or each.averaged else average_inside(each.content)
    if prefix is None or isinstance(each.content, nn.Module):
        yield each
        return
    inside = {key.removeprefix(prefix): x for key, x in each.content.items() if key.startswith(prefix)}
    others = {key: x for key, x in each.content.items() if not key.startswith(prefix)}
    # An averager may keep the weights that it averages beside them, which are then here twice.
    outside = {key: x for key, x in others.items() if not average_prefix(key)}
    yield WeightSet(inside, (*each.place, prefix.rstrip(".")), averaged=True)
    for rest in (outside, others):
        if any(map(is_weight, rest.values())):
            yield replace(each, content=rest)
            break
    # A layer may be called so too.
    yield each


def _best(sets: Iterator[WeightSet]) -> list[WeightSet]:
    """Those under the name that training scripts use first, or all where there is no such name."""
    ranked = [(_rank(each), each) for each in sets]
    least = min((rank for rank, _ in ranked), default=())
    return [each for rank, each in ranked if rank == least]


def _rank(each: WeightSet) -> tuple[int, ...]:
    ranks = [WRAPPERS.index(key) for key in each.place if key in WRAPPERS]
    return (min(ranks), len(each.place)) if ranks else (len(WRAPPERS),)


def _completed(average: WeightSet, plain: list[WeightSet]) -> Iterator[WeightSet]:
    """Averages with the names of the plain weights, and with those statistics that were not averaged."""
    others = [each.content for each in plain if not isinstance(each.content, nn.Module)]
    if isinstance(average.content, nn.Module) or not others:
        yield average
        return
    prefix = common_prefix(average.content)
    bare = _bare(average.content)
    states = (named_like(bare, _bare(other)) for other in others)
    state = next((state for state in states if state is not None), None)
    if state is None:
        yield average
        return
    beside = tuple(key for key in average.content if not key.startswith(prefix))
    numbers = tuple(key for key, x in bare.items() if not x.dim() and key not in state)
    yield replace(average, content=state, beside=(*beside, *numbers))


def _bare(state: State) -> State:
    prefix = common_prefix(state)
    return {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}


def _oddity(content: Any) -> str:
    if not content:
        return "nothing"
    key, value = next(iter(content.items()))
    kind = f"tensor of {value.dtype!s}" if isinstance(value, Tensor) else type(value).__name__
    return f"{shown(repr(key))}, a {kind}"
