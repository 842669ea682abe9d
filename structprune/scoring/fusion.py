"""Scores made comparable between groups, and several made one by their ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from structprune.scoring.scores import Scores


def ranks(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace scores by their rank over the whole network, in (0, 1], ties averaged.

    Per-layer ranks would cancel what the score says about how wide each layer should be.
    """
    flat = torch.cat([value.flatten() for value in values.values()]).double()
    _, inverse, counts = torch.unique(flat, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean_rank = last - (counts.double() - 1) / 2
    ranked = (mean_rank / len(flat))[inverse].float()
    sizes = [value.numel() for value in values.values()]
    pieces = ranked.split(sizes)
    return {name: piece.reshape(values[name].shape) for name, piece in zip(values, pieces, strict=True)}


def within_groups(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace the scores of every group by their rank within it, in (0, 1).

    A global ranking of these takes the same rate from every group: what is done where a score says which
    filters of a layer matter but nothing about how wide the layer should be.

    Example:
        >>> within_groups({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([70.0, 90.0])})
        {'a': tensor([0.7500, 0.2500]), 'b': tensor([0.2500, 0.7500])}
    """
    return {
        name: (torch.argsort(torch.argsort(value.flatten(), stable=True)).float().reshape(value.shape) + 0.5)
        / value.numel()
        for name, value in values.items()
    }


def conserved(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Let the channels that stay in a group take over what those that leave before them counted for.

    Scores are derivatives at the whole network, and a group that has lost most of its channels can't
    spare the others as lightly: the sum of NTK-SAP's scores over a layer, like SynFlow's, is the same
    however many channels share it. So the k-th worst of a group's scores :math:`s_1 \le s_2 \le ...` counts

    .. math:: s_k \, \frac{\sum_j s_j}{\sum_{j \ge k} s_j}

    in the ranking of the whole network. The order within a group stays what it is.

    Args:
        values: group -> (C,) scores; those with a negative one in them are returned as they are.

    Example:
        >>> conserved({"a": torch.tensor([1.0, 3.0, 4.0])})["a"]
        tensor([1.0000, 3.4286, 8.0000])
    """
    if any(bool((value < 0).any()) for value in values.values()):
        return dict(values)
    return {name: _taken_over(value) for name, value in values.items()}


def _taken_over(scores_C: Tensor) -> Tensor:
    worst_first, order = torch.sort(scores_C.double(), stable=True)
    left = worst_first.flip(0).cumsum(0).flip(0)  # summed from the end, so that the last is itself exactly
    heavier = torch.where(left > 0, worst_first * (left[0] / left), worst_first)
    return torch.empty_like(heavier).scatter_(0, order, heavier).to(scores_C.dtype)


def reordered(values: Mapping[str, Tensor], order: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Lay the values of one score in the order of another, group by group.

    What comes out ranks the channels of a group as ``order`` does, and the groups as ``values`` do: so two
    scores can be fused of which one says how wide a layer should be and the other only what to keep of it.

    Example:
        >>> reordered({"a": torch.tensor([5.0, 6.0, 7.0])}, {"a": torch.tensor([0.3, 0.1, 0.2])})
        {'a': tensor([7., 5., 6.])}
    """
    laid = {}
    for name, value in values.items():
        places = torch.argsort(order[name].flatten(), stable=True)
        laid[name] = torch.empty_like(value).flatten().scatter_(0, places, value.flatten().sort().values)
    return {name: value.reshape(values[name].shape) for name, value in laid.items()}


def fuse(scores: Sequence[Scores], widths: str | None = None) -> Scores:
    """Fuse scores of different criteria: the mean of their ranks over the whole network.

    Raw scores differ by many orders of magnitude and are never added.

    Args:
        scores: of the same gates.
        widths: the criterion that alone says how much of each group stays; the others then take part in
            what of the group. None: all say both.

    Example:
        >>> a = Scores({"conv": torch.tensor([1.0, 2.0, 3.0])}, "a")
        >>> b = Scores({"conv": torch.tensor([9e6, 1e6, 5e6])}, "b")
        >>> fuse([a, b]).values["conv"]
        tensor([0.6667, 0.5000, 0.8333])
    """
    if len(scores) == 1:
        return scores[0]
    name, draws = "+".join(score.criterion for score in scores), max(score.draws for score in scores)
    taken = next((score.taken for score in scores if score.taken is not None), None)
    leading = next((score for score in scores if score.criterion == widths), None)
    if leading is not None:
        scores = [replace(score, values=reordered(leading.values, score.values)) for score in scores]
    ranked = [ranks(score.values) for score in scores]
    mean = {gate: torch.stack([r[gate] for r in ranked]).mean(0) for gate in ranked[0]}
    return Scores(mean, name, draws=draws, taken=taken)
