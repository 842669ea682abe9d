"""How many samples a ranking needs: more are taken until two halves of them rank alike.

Scores that are sums over samples can be taken part by part, and the parts of two halves added up apart. The
halves' rankings are compared by Spearman's correlation over all channels of the network; that of all samples
together is surer than either's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from structprune.scoring.fusion import ranks
from structprune.scoring.sampling import Batch, Sampling
from structprune.scoring.scores import Scores, Taken

LEAST, MOST, STEP = 256, 2048, 128
"""Samples: what is taken at once, the most that are taken, and how many more at a time."""

AGREED = 0.9
"""Spearman's correlation of two halves at which a ranking counts as settled."""

_APART = 100_003
"""Between the seeds of parts, so that no two draw the same labels and weights."""

Score = Callable[[Sampling], list[Scores]]
Rank = Callable[[list[Scores]], Scores]


def settled(sampling: Sampling, score: Score, rank: Rank) -> list[Scores]:
    """Score as many samples as the ranking needs, from :data:`LEAST` to :data:`MOST`.

    Args:
        sampling: all samples that there are to take from.
        score: scores of some of them, sums over samples all.
        rank: one ranking of what several criteria score.

    Returns:
        Scores of all samples that were taken, which say how many those are and why no more.
    """
    offered = sampling.samples
    if offered <= LEAST:
        return score(sampling)
    halves: list[list[Scores]] = []
    taken = 0
    for pair in _pairs(sampling):
        parts = [score(part) for part in pair]
        halves = [_added(*both) for both in zip(halves, parts, strict=True)] if halves else parts
        taken += sum(part.samples for part in pair)
        one, two = (rank(half).values for half in halves)
        agreement = spearman(one, two)
        if agreement >= AGREED:
            break
    why = Taken(taken, offered, agreement, AGREED)
    return [replace(scores, taken=why) for scores in _added(*halves)]


def spearman(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return the correlation of two scores' ranks over the whole network; 1 where either ranks nothing.

    Example:
        >>> rising = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([30.0])}
        >>> spearman(rising, {"x": torch.tensor([-3.0, 7.0]), "y": torch.tensor([8.0])})
        1.0
    """
    x, y = (torch.cat([rank.flatten() for rank in ranks(values).values()]).double() for values in (a, b))
    x, y = x - x.mean(), y - y.mean()
    spread = float(x.norm() * y.norm())
    return min(1.0, float(x @ y) / spread) if spread else 1.0


def _added(one: Sequence[Scores], two: Sequence[Scores]) -> list[Scores]:
    return [a.plus(b) for a, b in zip(one, two, strict=True)]


def _pairs(sampling: Sampling) -> Iterator[tuple[Sampling, Sampling]]:
    """Yield two halves of the first samples, and then of some more each time; mini-batches stay whole.

    They are taken in an order drawn by the seed, since data may be sorted by class.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    order = torch.randperm(len(sampling.batches), generator=generator).tolist()
    batches = [sampling.batches[i] for i in order]
    taken, number = 0, 0
    while batches and taken < MOST:
        wanted = STEP if taken else LEAST
        some = _leading(batches, min(wanted, MOST - taken))
        batches = batches[len(some) :]
        if len(some) > 1:  # one mini-batch has no second half
            draws = 1 if taken else -(-sampling.draws // 2)
            one, two = (
                replace(
                    sampling,
                    batches=tuple(some[half::2]),
                    seed=sampling.seed + _APART * (2 * number + half),
                    draws=draws,
                )
                for half in range(2)
            )
            yield one, two
        taken += sum(map(len, some))
        number += 1


def _leading(batches: Sequence[Batch], samples: int) -> list[Batch]:
    """Return the first mini-batches that have so many samples together."""
    leading: list[Batch] = []
    while len(leading) < len(batches) and sum(map(len, leading)) < samples:
        leading.append(batches[len(leading)])
    return leading
