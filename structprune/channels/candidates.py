"""From labels that were tied to groups of channels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from structprune.channels.counted import Place
from structprune.channels.groups import Coupling, ExtraParameter, SizeAttribute
from structprune.channels.labels import FIXED, Classes
from structprune.channels.trace import Trace


@dataclass(frozen=True)
class Candidate:
    """Channels that leave together, before anybody asked whether they may.

    Attributes:
        name: of the first layer that produces them.
        size: number of channels.
        producers: layers that write them.
        consumers: layers that read them.
        carriers: layers in between with an entry per channel.
        loose: parameters that belong to no such layer, with an entry per channel.
        sizes: attributes of modules that count the channels.
        is_output: whether the network puts them out.
        fault: what forbids to cut them, or None.
    """

    name: str
    size: int
    producers: tuple[Coupling, ...]
    consumers: tuple[Coupling, ...]
    carriers: tuple[Coupling, ...]
    loose: tuple[ExtraParameter, ...]
    sizes: tuple[SizeAttribute, ...]
    is_output: bool
    fault: str | None

    @property
    def couplings(self) -> tuple[Coupling, ...]:
        """Every layer that meets the channels, once a side."""
        return (*self.producers, *self.consumers, *self.carriers)


def read_off(trace: Trace, order: Mapping[str, int]) -> list[Candidate]:
    """Bring what a pass tied together into groups.

    Args:
        trace: what the pass left behind.
        order: module name -> its number; groups and their layers come in this order.
    """
    classes = _settled(trace)
    members: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, segment in enumerate(trace.segments):
        for offset, owner in enumerate(classes.of[segment.start : segment.start + segment.size].tolist()):
            members[owner].append((number, offset))
    put_out = set(_owners(classes, trace.outputs))
    counted = _counted(trace, classes)
    alike: dict[Any, list[int]] = defaultdict(list)
    for owner, rows in members.items():
        if any(trace.segments[number].side == "producers" for number, _ in rows):
            where = tuple(sorted(number for number, _ in rows))
            # What a number counts is apart from what it does not, so that something of it stays.
            alike[where, classes.reasons.get(owner), owner in put_out, counted[owner]].append(owner)
    found = [
        _candidate(trace, owners, members, classes, key[1], key[2], order) for key, owners in alike.items()
    ]
    return _named(sorted(found, key=lambda c: (order[c.producers[0].layer], c.producers[0].channels)))


def _owners(classes: Classes, factors: Sequence[Tensor]) -> Iterator[int]:
    for labels in factors:
        yield from classes.of[labels[labels != FIXED].numpy()].tolist()


def _counted(trace: Trace, classes: Classes) -> Mapping[int, frozenset[Place]]:
    """Return class -> the numbers of modules that count its labels."""
    places: dict[int, set[Place]] = defaultdict(set)
    for place, labels in trace.sizings.items():
        for owner in _owners(classes, [labels]):
            places[owner].add(place)
    return defaultdict(frozenset, {owner: frozenset(row) for owner, row in places.items()})


def _settled(trace: Trace) -> Classes:
    """Tie together what was tied, and pin pieces of a split that turned out to differ."""
    classes = _evened(trace)
    reasons = dict(classes.reasons)
    for pieces in trace.pieces:
        kinds = [np.where(p == FIXED, FIXED, classes.of[p]) for p in (x.flatten().numpy() for x in pieces)]
        if any(len(kind) != len(kinds[0]) or (kind != kinds[0]).any() for kind in kinds):
            for kind in kinds:
                for owner in set(kind.tolist()):
                    reasons.setdefault(owner, "its channels are taken apart one by one, by unbind")
    return Classes(classes.of, reasons)


def _evened(trace: Trace) -> Classes:
    """Tie what one number counts, entry by entry, where it is not the same channels in any order."""
    classes = trace.labels.classes()
    apart = [pair for pair in trace.counts if not _same_channels(classes, *pair)]
    for some, others in apart:
        reason = "its channels are counted by a number that counts others, which stay, too"
        trace.labels.tie(some, others, reason)
    return trace.labels.classes() if apart else classes


def _same_channels(classes: Classes, some: Tensor, others: Tensor) -> bool:
    a, b = (np.sort(np.where(x == FIXED, FIXED, classes.of[x])) for x in (some.numpy(), others.numpy()))
    return bool((a == b).all())


def _candidate(
    trace: Trace,
    owners: Sequence[int],
    members: Mapping[int, Sequence[tuple[int, int]]],
    classes: Classes,
    fault: str | None,
    is_output: bool,
    order: Mapping[str, int],
) -> Candidate:
    gate = {owner: number for number, owner in enumerate(owners)}
    rows: dict[int, dict[int, int]] = defaultdict(dict)
    for owner in owners:
        for number, offset in members[owner]:
            rows[number][offset] = gate[owner]
    sides: dict[str, list[Coupling]] = defaultdict(list)
    loose = []
    for number in sorted(rows):
        segment, mapping = trace.segments[number], rows[number]
        channels = tuple(sorted(mapping))
        gates = tuple(mapping[c] for c in channels)
        if segment.side == "loose":
            loose.append(ExtraParameter(segment.name, segment.dim, channels, gates))
        else:
            sides[segment.side].append(Coupling(segment.name, channels, gates))
    producers = sorted(sides["producers"], key=lambda c: order[c.layer])
    return Candidate(
        name=producers[0].layer,
        size=len(owners),
        producers=tuple(producers),
        consumers=tuple(sides["consumers"]),
        carriers=tuple(sides["carriers"]),
        loose=tuple(loose),
        sizes=tuple(_sizings(trace, classes, gate)),
        is_output=is_output or any(c.layer in trace.makers for c in producers),
        fault=fault,
    )


def _sizings(trace: Trace, classes: Classes, gate: Mapping[int, int]) -> Iterator[SizeAttribute]:
    """Yield the attributes that count the channels, each with those of its places that these have."""
    for place, labels in trace.sizings.items():
        owners = [FIXED if label == FIXED else int(classes.of[label]) for label in labels.tolist()]
        channels = tuple(i for i, owner in enumerate(owners) if owner in gate)
        if channels:
            gates = tuple(gate[owners[i]] for i in channels)
            yield SizeAttribute(place.module, place.attribute, channels, gates, place.index)


def _named(found: Sequence[Candidate]) -> list[Candidate]:
    """Name channels after the layer that writes them first, and say which where it writes several kinds."""
    names = Counter(c.name for c in found)
    return [
        replace(c, name=f"{c.name}[{c.producers[0].channels[0]}]") if names[c.name] > 1 else c for c in found
    ]
