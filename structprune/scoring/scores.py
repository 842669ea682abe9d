"""Scores of gates, and what they are taken on: samples, loss, batches and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from structprune.errors import InputError
from structprune.scoring.sampling import Sampling


@dataclass(frozen=True)
class Taken:
    """How many of the samples scored, and why no more did.

    Attributes:
        samples: that scored.
        offered: that there were.
        agreement: Spearman's correlation of the rankings of two halves of those that scored.
        enough: at which agreement no more samples are taken.
    """

    samples: int
    offered: int
    agreement: float
    enough: float

    def __str__(self) -> str:
        all_of_them = self.samples == self.offered
        some = f"all {self.samples:,}" if all_of_them else f"{self.samples:,} of the {self.offered:,}"
        how = f"two halves of them rank channels alike to {self.agreement:.3f} (Spearman)"
        if self.agreement >= self.enough:
            return f"{some} samples scored, since the ranking has settled: {how}, {self.enough} is enough"
        most = "there are no more" if all_of_them else "no more are taken"
        return f"{some} samples scored, {most}, and the ranking has not settled: {how}, below {self.enough}"


@dataclass(frozen=True)
class Scores:
    """How much each gate matters.

    Attributes:
        values: gate name -> tensor shaped like the gate, on the CPU, finite; larger = keep.
        criterion: what computed them.
        sums: what was summed over samples, with its sign, where the values are its magnitude and those of
            more samples are had by adding up; None where they are not.
        draws: how many draws of weights are in them.
        taken: how many of the samples scored, where they were not simply all.
    """

    values: Mapping[str, Tensor]
    criterion: str
    sums: Mapping[str, Tensor] | None = None
    draws: int = 0
    taken: Taken | None = None

    def plus(self, other: Scores) -> Scores:
        """Return the scores of both sets of samples together."""
        assert self.sums is not None
        assert other.sums is not None
        sums = {name: x + other.sums[name] for name, x in self.sums.items()}
        values = {name: x.abs() for name, x in sums.items()}
        return replace(self, values=values, sums=sums, draws=self.draws + other.draws)


def summed_up(sampling: Sampling, values: Mapping[str, Tensor], criterion: str) -> Scores:
    """File what :func:`accumulate` returned as scores; mini-batches' strengths are sums over samples."""
    scores = finished(values, criterion)
    return scores if sampling.accumulate == "total" else replace(scores, sums=scores.values)


def finished(values: Mapping[str, Tensor], criterion: str) -> Scores:
    """File values as scores: on the CPU, detached and finite.

    Raises:
        InputError: a score is NaN or infinite.
    """
    done = {name: value.detach().cpu() for name, value in values.items()}
    broken = [name for name, value in done.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(
            f"the {criterion} score is not finite for {broken[0]} and {len(broken) - 1} more: the network's "
            "output or loss overflows on the scoring inputs; check the weights and how inputs are normalised"
        )
    return Scores(done, criterion)


def per_channel(weight_scores_OIkk: Tensor) -> Tensor:
    """Return the mean score per output channel of scores shaped like a weight, (O,).

    A mean and not a sum: fan-ins differ by orders of magnitude between layers.
    """
    return weight_scores_OIkk.flatten(1).mean(1)
