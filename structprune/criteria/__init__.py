"""Criteria: one small pure function a file, (gated model, sampling) -> scores.

A criterion never asks whether its gates are channels or weights. A plug-in package adds one through the
entry-point group ``structprune.criteria``.
"""

from __future__ import annotations

from collections.abc import Callable

from structprune.criteria.crop import crop, crop_gradflow
from structprune.criteria.magnitude import magnitude
from structprune.criteria.ntk_sap import ntk_sap, ntk_sap_kept, ntk_sap_redrawn
from structprune.criteria.random import random
from structprune.criteria.snip import snip
from structprune.gates import GatedModel
from structprune.registry import Registry
from structprune.scores import Sampling, Scores

Criterion = Callable[[GatedModel, Sampling], Scores]

CRITERIA: Registry[Criterion] = Registry("criterion", "structprune.criteria")
for _criterion in (crop, crop_gradflow, magnitude, ntk_sap, ntk_sap_kept, ntk_sap_redrawn, random, snip):
    CRITERIA.register(_criterion.__name__)(_criterion)

DEFAULT = "ntk_sap+crop"
"""The fusion that ``compress`` uses when no score is named."""


def named(name: str) -> list[Criterion]:
    """Return the criteria of a score: ``"snip"``, or a fusion, ``"ntk_sap+crop"``.

    Raises:
        UnknownNameError: no criterion has one of the names.
    """
    return [CRITERIA[part.strip().replace("-", "_")] for part in name.split("+")]


__all__ = [
    "CRITERIA",
    "DEFAULT",
    "Criterion",
    "crop",
    "crop_gradflow",
    "magnitude",
    "named",
    "ntk_sap",
    "ntk_sap_kept",
    "ntk_sap_redrawn",
    "random",
    "snip",
]
