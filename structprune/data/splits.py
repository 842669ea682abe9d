"""Which images are held out and which ones score: seeded and balanced over the classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from structprune.data.images import Indices, Labels
from structprune.errors import InputError, UsageError


def hold_out(labels: Labels, fraction: float = 0.2, seed: int = 0) -> tuple[Indices, Indices]:
    """Split into a part to learn from and a part to judge on, the same fraction of every class.

    A class of two or more images is in both parts; the only image of a class is not held out.

    Args:
        labels: (N,) class of each image.
        fraction: of each class that is held out, between 0 and 1.
        seed: of the draw.

    Returns:
        Indices to learn from and indices held out, each ascending.

    Raises:
        UsageError: the fraction is not between 0 and 1.
        InputError: no class has two images.

    Example:
        >>> learn, judge = hold_out(np.array([0, 0, 0, 1, 1, 1]), fraction=1 / 3)
        >>> len(learn), len(judge)
        (4, 2)
    """
    if not 0 < fraction < 1:
        raise UsageError(f"fraction {fraction} to hold out; expected one between 0 and 1")
    rank = _rank_in_class(labels, np.random.default_rng(seed))
    size = np.bincount(labels)[labels]
    held = rank < np.clip(np.rint(fraction * size), 1, size - 1)
    if not held.any():
        raise InputError(f"{len(labels)} images, none of a class with a second one: too few to hold any out")
    return np.flatnonzero(~held), np.flatnonzero(held)


def scoring_sample(
    labels: Labels, per_class: int = 10, least: int = 256, most: int = 2048, seed: int = 0
) -> Indices:
    """Choose the images that score: ``per_class`` of each class, but ``least`` to ``most`` in all.

    Every class gives one image before any gives its second, so any run of consecutive indices is balanced
    too, and with it every mini-batch. Where a class runs out, the others fill in.

    Args:
        labels: (N,) class of each image.
        per_class: images wanted of each class.
        least: images wanted in all, however few the classes.
        most: images in all, however many the classes.
        seed: of the draw.

    Returns:
        min(N, wanted) distinct indices, in the order in which they are to be used.
    """
    random = np.random.default_rng(seed)
    wanted = min(max(per_class * len(np.unique(labels)), least), most)
    order = np.lexsort((random.random(len(labels)), _rank_in_class(labels, random)))
    return order[:wanted].astype(np.int64)


def _rank_in_class(labels: Labels, random: np.random.Generator) -> NDArray[np.int64]:
    """Number the images of each class 0, 1, 2, ... in random order; (N,)."""
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[random.permutation(members)] = np.arange(len(members))
    return rank
