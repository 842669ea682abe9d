"""Which weights of a file belong to which network: by names and shapes, behind whatever prefix they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from torch import Tensor, nn

from structprune.errors import InputError, argument
from structprune.files import shown
from structprune.models.architecture import FACTORY, Architecture, build_on_meta
from structprune.models.identify import (
    Mismatch,
    Nearest,
    Shapes,
    difference,
    identify,
    nearest,
    num_classes,
    shapes_of,
)
from structprune.models.naming import architecture_named
from structprune.models.prefixes import View, common_prefix, large_parts, prefixes_of, views
from structprune.models.weight_sets import WeightSet

State = dict[str, Tensor]

MAJORITY = 0.5
"""Of all entries, that a known network has more of, else it is only a part of one that is not known."""

BUILDS_YOURS = (
    f"name the class or the function that builds yours: {argument('arch', 'yourpackage.module:YourClass')}"
)

NAMED = 5
LOOKED_AT = 3


@dataclass(frozen=True)
class Found:
    """A network that a state dict fits.

    Attributes:
        architecture: what builds it.
        prefix: what the network has in front of every name, and the state dict does not.
    """

    architecture: Architecture
    prefix: str = ""


class Finder(Protocol):
    """What names and shapes are held against: all known networks, or the one that was named."""

    def prefixes(self, state: State) -> list[str]:
        """Behind which a network may be."""

    def find(self, shapes: Shapes) -> Found | None:
        """The network with exactly these names and shapes."""

    def nearest(self, shapes: Shapes) -> Nearest:
        """The one that most of them fit."""

    def accepts(self, share: float) -> bool:
        """Whether a part of the file with this share of its entries may be the network."""

    def refusal(self, near: Nearest, keys: int) -> str:
        """What to say where none fits."""


class AnyKnown:
    """Our networks and torchvision's classifiers."""

    def prefixes(self, state: State) -> list[str]:  # noqa: D102
        return large_parts(state)

    def find(self, shapes: Shapes) -> Found | None:  # noqa: D102
        architecture = identify(shapes)
        return None if architecture is None else Found(architecture)

    def nearest(self, shapes: Shapes) -> Nearest:  # noqa: D102
        return nearest(shapes)

    def accepts(self, share: float) -> bool:  # noqa: D102
        return share > MAJORITY

    def refusal(self, near: Nearest, keys: int) -> str:  # noqa: D102
        return (
            f": the state dict of {keys} tensors fits no known network; the nearest is "
            f"{near.architecture.source}, where {_parted(near.difference, keys)}; {BUILDS_YOURS}"
        )


class OneNamed:
    """A network that the user named, by a zoo's name or a factory.

    Args:
        name: the name.
        classes: outputs, or None for what the weights say.
    """

    def __init__(self, name: str, classes: int | None) -> None:
        self._name, self._classes = name, classes
        self._built: dict[int | None, State] = {}

    def prefixes(self, state: State) -> list[str]:  # noqa: D102
        _, network = self._network(shapes_of(state))
        own = common_prefix(network)
        names = [name.removeprefix(own) for name in shapes_of(network) if name.startswith(own)]
        return prefixes_of(names, state) or large_parts(state)

    def find(self, shapes: Shapes) -> Found | None:  # noqa: D102
        architecture, state = self._network(shapes)
        expected = shapes_of(state)
        for prefix in dict.fromkeys(("", common_prefix(state))):
            if difference(expected, {prefix + name: shape for name, shape in shapes.items()}) is None:
                return Found(architecture, prefix)
        return None

    def nearest(self, shapes: Shapes) -> Nearest:  # noqa: D102
        architecture, state = self._network(shapes)
        # Fits exactly where it was found behind one of several prefixes.
        parted = difference(shapes_of(state), shapes) or Mismatch(0, "none", len(shapes))
        return Nearest(architecture, parted)

    def accepts(self, share: float) -> bool:  # noqa: D102
        return share > 0

    def refusal(self, near: Nearest, keys: int) -> str:  # noqa: D102
        return f" does not fit {near.architecture.source}: {_parted(near.difference, keys)}"

    def _network(self, shapes: Shapes) -> tuple[Architecture, State]:
        is_factory = architecture_named(self._name).zoo == FACTORY
        # A zoo's default is kept where the weights don't say how many classes there are.
        said = num_classes(shapes) if self._classes is None and not is_factory else self._classes
        architecture = architecture_named(self._name, said)
        if said not in self._built:
            self._built[said] = build_on_meta(architecture, trust_factory=True).state_dict()
        return architecture, self._built[said]


def _parted(parted: Mismatch, keys: int) -> str:
    return f"{parted.count} differ and {parted.fitting} of {keys} keys fit, first: {parted.first}"


# Fits -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """Weights and the network that they are of.

    Attributes:
        content: name -> tensor under the network's own names, or a network that was pickled whole.
        architecture: what builds it; None for a pickled one.
        notes: what was taken and what was left.
    """

    content: nn.Module | State
    architecture: Architecture | None
    notes: tuple[str, ...] = ()


def fit(sets: Sequence[WeightSet], finder: Finder, name: str) -> Fit:
    """Take the first weights of a file that are those of a network.

    Args:
        sets: what the file holds, in the order in which it is to be taken.
        finder: which networks come into question.
        name: of the file, for messages.

    Raises:
        InputError: none fits, and the message says how many keys of the nearest do; or several do.
    """
    for each in sets:
        is_network = isinstance(each.content, nn.Module)
        hit = Fit(each.content, None) if is_network else _behind_a_prefix(each, finder, name)
        if hit is not None:
            _refuse_rivals(each, sets, finder, name)
            return replace(hit, notes=(*_about_averages(each, sets), *hit.notes))
    raise InputError(name + _refusal(sets, finder))


def _behind_a_prefix(each: WeightSet, finder: Finder, name: str) -> Fit | None:
    hits = _hits(each, finder)
    if not hits:
        return None
    if len(hits) > 1:
        parts = " and ".join(shown(repr(view.prefix)) for view, _ in hits)
        raise InputError(f"{name} holds weights of several networks, behind {parts}; save those of one alone")
    view, found = hits[0]
    if not finder.accepts(view.share):
        return None
    state = {found.prefix + key: tensor for key, tensor in view.state.items()}
    return Fit(state, found.architecture, _about_the_rest((*view.beside, *each.beside)))


def _hits(each: WeightSet, finder: Finder) -> list[tuple[View, Found]]:
    """The whole where it fits, else every part that does; averages only where nothing else does."""
    assert not isinstance(each.content, nn.Module)
    hits: list[tuple[View, Found]] = []
    for view in views(each.content, finder.prefixes(each.content)):
        found = finder.find(shapes_of(view.state))
        if found is not None and not any(view.prefix.startswith(hit.prefix) for hit, _ in hits):
            hits.append((view, found))
            if not view.prefix:
                break
    return [hit for hit in hits if not hit[0].is_average] or hits


def _refuse_rivals(each: WeightSet, sets: Sequence[WeightSet], finder: Finder, name: str) -> None:
    """Refuse to choose between weights of which neither is an average of the other."""
    rivals = [other for other in sets if not other.averaged and other.place != each.place]
    for other in () if each.averaged else rivals:
        if isinstance(other.content, nn.Module) or _hits(other, finder):
            raise InputError(
                f"{name} holds weights of several networks, under {each.where!r} and {other.where!r}; "
                "save those of one alone"
            )


def _about_averages(each: WeightSet, sets: Sequence[WeightSet]) -> tuple[str, ...]:
    if each.averaged:
        others = "; the option no-ema takes the others" if any(not other.averaged for other in sets) else ""
        return (f"the weights are moving averages (EMA), those under {each.where!r}{others}",)
    left = [other.where for other in sets if other.averaged]
    return (f"the moving averages (EMA) under {left[0]!r} fit no network and were left out",) if left else ()


def _about_the_rest(keys: Sequence[str]) -> tuple[str, ...]:
    if not keys:
        return ()
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    names = ", ".join(map(shown, keys[:NAMED]))
    return (f"keys of the file beside the network's weights were left out: {names}{more}",)


def _refusal(sets: Sequence[WeightSet], finder: Finder) -> str:
    """What to say of the part, or the whole, that comes nearest to a network."""
    rows = [row for each in sets for row in _nearest_parts(each, finder)]
    return max(rows, key=lambda row: row[0])[1]


def _nearest_parts(each: WeightSet, finder: Finder) -> Iterator[tuple[int, str]]:
    """Yield how many keys fit a network, and the sentence on it."""
    if isinstance(each.content, nn.Module):
        return
    keys = len(shapes_of(each.content))
    for view in islice(views(each.content, finder.prefixes(each.content)), LOOKED_AT):
        shapes = shapes_of(view.state)
        found = finder.find(shapes)
        if found is not None:
            fitting, source = len(shapes), found.architecture.source
            yield (
                fitting,
                (
                    f": {fitting} of its {keys} keys fit {source}, those behind {shown(view.prefix)!r}, and "
                    f"the others are most of its weights; {BUILDS_YOURS}"
                ),
            )
        elif view.share > MAJORITY:
            near = finder.nearest(shapes)
            yield near.difference.fitting, finder.refusal(near, keys)
