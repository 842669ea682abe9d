"""Labels: every entry of every layer's width has one, and tensors carry them through a forward pass.

A label stands for one output channel, one input, one unit, one entry of a parameter. Operations tie labels
that can only leave together and pin those that can't leave at all; what is tied in the end is a channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

FIXED = -1
"""What entries carry that stay whatever happens: zeros of a padding, the network's own inputs."""


@dataclass(frozen=True)
class Tag:
    """What is known of a tensor.

    Attributes:
        factors: int64 labels that broadcast to the tensor's shape: an entry leaves where the label that any
            of them gives it leaves. A tensor without factors has none that could.
        makers: layers that made it, with nothing but operations without weights in between.
        weight: whether it comes from parameters alone.
        layer: the conv or linear layer whose weight it is, or None.
    """

    factors: tuple[Tensor, ...] = ()
    makers: frozenset[str] = frozenset()
    weight: bool = False
    layer: str | None = None


def support(factor: Tensor) -> frozenset[int]:
    """Return the dimensions along which labels differ."""
    return frozenset(d for d, size in enumerate(factor.shape) if size > 1)


def along(size: int, dim: int, labels_C: Tensor) -> Tensor:
    """Lay labels (C,) along one of ``size`` dimensions."""
    return labels_C.reshape([-1 if d == dim else 1 for d in range(size)])


def collapsed(factor: Tensor) -> Tensor:
    """Narrow every dimension along which labels don't differ to one entry."""
    for dim in support(factor):
        first = factor.narrow(dim, 0, 1)
        if torch.equal(factor, first.expand_as(factor)):
            factor = first
    return factor


@dataclass(frozen=True)
class Classes:
    """What is tied together.

    Attributes:
        of: (labels,) the class of every label.
        reasons: class -> why it can't leave.
    """

    of: np.ndarray
    reasons: Mapping[int, str]


@dataclass
class Labels:
    """All labels of one trace, and what became of them."""

    count: int = 0
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pins: list[tuple[Tensor, str]] = field(default_factory=list)

    def new(self, size: int) -> Tensor:
        """Make ``size`` new labels, (size,)."""
        self.count += size
        return torch.arange(self.count - size, self.count)

    def pin(self, labels: Tensor | Iterable[Tensor], reason: str) -> None:
        """Say that labels can't leave."""
        for one in [labels] if isinstance(labels, Tensor) else labels:
            self.pins.append((one.flatten(), reason))

    def tie(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Say that labels leave together, entry by entry; beside a fixed one none can, for this reason."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = a.expand(shape).flatten(), b.expand(shape).flatten()
        fixed = (a == FIXED) | (b == FIXED)
        if bool(fixed.any()):
            self.pin(torch.maximum(a, b)[fixed], reason)
            a, b = a[~fixed], b[~fixed]
        differ = a != b
        if bool(differ.any()):
            self.ties.append((a[differ], b[differ]))

    def classes(self) -> Classes:
        """Find what is tied together, over any number of steps."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        a, b = (np.concatenate([pair[i].numpy() for pair in self.ties] or [np.empty(0, int)]) for i in (0, 1))
        edges = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(self.count, self.count))
        _, of = connected_components(edges, directed=False)
        reasons: dict[int, str] = {}
        for labels, reason in self.pins:
            real = labels[labels != FIXED].numpy()
            for number in np.unique(of[real]).tolist():
                reasons.setdefault(number, reason)
        return Classes(of, reasons)


def merged(
    labels: Labels, shape: Sequence[int], operands: Sequence[tuple[Tag, Sequence[int]]], reason: str
) -> Tag:
    """Bring together the labels of operands that meet entry by entry, with broadcasting.

    Args:
        labels: what is tied.
        shape: of the result.
        operands: tag and shape of every tensor that takes part.
        reason: why labels can't leave that meet entries without any.
    """
    rank = len(shape)
    lifted = [
        [factor.reshape([1] * (rank - factor.dim()) + list(factor.shape)) for factor in tag.factors]
        for tag, _ in operands
    ]
    sizes = [[1] * (rank - len(own)) + list(own) for _, own in operands]
    found: list[Tensor] = []
    for factors in lifted:
        for factor in factors:
            found = _joined(labels, found, factor, reason)
    for factor in found:
        for own, factors in zip(sizes, lifted, strict=True):
            wide = {d for d in support(factor) if own[d] > 1}
            known = frozenset().union(*(support(f) for f in factors))
            if wide - known:
                labels.pin(factor, reason)
    tags = [tag for tag, _ in operands]
    makers = frozenset().union(*(tag.makers for tag in tags))
    return Tag(tuple(found), makers, all(tag.weight for tag in tags) if tags else False)


def disjoint(labels: Labels, factors: Sequence[Tensor]) -> list[Tensor]:
    """Tie factors that differ along the same dimensions, as they do once two dimensions became one."""
    found: list[Tensor] = []
    for factor in factors:
        found = _joined(labels, found, factor, "its channels are laid out together with others that stay")
    return found


def _joined(labels: Labels, found: Sequence[Tensor], factor: Tensor, reason: str) -> list[Tensor]:
    """Tie a factor to those of ``found`` that have a dimension in common with it.

    Once tied they differ along common dimensions only.
    """
    apart = [other for other in found if not support(other) & support(factor)]
    for other in found:
        if common := support(other) & support(factor):
            labels.tie(factor, other, reason)
            for d in support(factor) - common:
                factor = factor.narrow(d, 0, 1)
    return [*apart, factor]
