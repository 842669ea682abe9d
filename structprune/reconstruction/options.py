"""Whether a cut network is mended, and how, from what was asked for and what there is."""

from __future__ import annotations

from collections.abc import Callable

from structprune.errors import UsageError
from structprune.reconstruction.methods import FEWEST, METHODS, Inputs, Reconstruction, reconstruction_on
from structprune.scoring.criteria import DEFAULT, parts


def decided(
    asked: str | None, trained: bool, inputs: Callable[[], Inputs] | None, seed: int, score: str
) -> Reconstruction | None:
    """Return how to mend, or None where nothing is to be mended.

    Args:
        asked: a method, ``none``, or None where nothing was said; fewer than 8 inputs mend nothing then.
        trained: whether the network counts as trained.
        inputs: takes unlabelled inputs, (N, ...) each; None where there are no data.
        seed: of the inputs that judge.
        score: what chooses the channels.

    Raises:
        UsageError: there is no such method, or no data for it, or too few.
    """
    method = asked_for(asked, trained, inputs is not None)
    if method is None or inputs is None:
        return None
    given = inputs()
    if asked is None and len(given[0]) < FEWEST:
        return None
    return reconstruction_on(method, given, seed, rechooses(method, score))


def asked_for(method: str | None, trained: bool, data: bool) -> str | None:
    """Return the method that is meant: by default least squares on a trained network with data, else none.

    Args:
        method: what was asked for; ``none`` for none, None where nothing was said.
        trained: whether the network counts as trained.
        data: whether there are data.

    Raises:
        UsageError: there is no such method, or no data for it.
    """
    if method not in (None, "none", *METHODS):
        raise UsageError(f"unknown correction {method!r}; known: {', '.join(METHODS)}, none")
    if method in METHODS and not data:
        raise UsageError(f"{method} corrects a network on data; give some, or leave it out")
    if method is None:
        return "least-squares" if trained and data else None
    return None if method == "none" else method


def rechooses(method: str, score: str) -> bool:
    """Tell whether channels are chosen anew: where least squares follow on the default score.

    Whoever asks for a score of their own gets the channels that it keeps.
    """
    return method == "least-squares" and parts(score) == parts(DEFAULT)
