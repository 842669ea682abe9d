"""Criteria: one small pure function a file, (gated model, sampling) -> scores.

A criterion takes the gates as they come, open or closed, on channels or on weights. Where a method means
something else for weights, a table is keyed by ``gated.flow``; what makes no sense for them is refused. A
plug-in package adds one through the entry-point group ``structprune.criteria``, and says with ``needs`` what
its score is made of.
"""

from __future__ import annotations

from collections.abc import Callable

from structprune.pruning.gates import GatedModel
from structprune.registry import Registry
from structprune.scoring.criteria.bn_scale import bn_scale
from structprune.scoring.criteria.crop import crop, crop_gradflow
from structprune.scoring.criteria.filter_norm import filter_norm
from structprune.scoring.criteria.force import force
from structprune.scoring.criteria.gate_taylor import gate_taylor
from structprune.scoring.criteria.grasp import grasp
from structprune.scoring.criteria.magnitude import magnitude
from structprune.scoring.criteria.needs import Needs, needs, needs_of
from structprune.scoring.criteria.ntk_sap import ntk_sap, ntk_sap_kept, ntk_sap_redrawn
from structprune.scoring.criteria.random import random
from structprune.scoring.criteria.snip import snip
from structprune.scoring.criteria.synflow import synflow
from structprune.scoring.sampling import Sampling
from structprune.scoring.scores import Scores

Criterion = Callable[[GatedModel, Sampling], Scores]

CRITERIA: Registry[Criterion] = Registry("criterion", "structprune.criteria")
for _criterion in (
    bn_scale,
    crop,
    crop_gradflow,
    filter_norm,
    force,
    gate_taylor,
    grasp,
    magnitude,
    ntk_sap,
    ntk_sap_kept,
    ntk_sap_redrawn,
    random,
    snip,
    synflow,
):
    CRITERIA.register(_criterion.__name__)(_criterion)

DEFAULT = "ntk_sap+crop"
"""The fusion that ``compress`` uses when no score is named."""


def named(name: str) -> list[Criterion]:
    """Return the criteria of a score: ``"snip"``, or a fusion, ``"ntk_sap+crop"``.

    Raises:
        UnknownNameError: no criterion has one of the names.
    """
    return [CRITERIA[part] for part in parts(name)]


def needed(name: str) -> list[Needs]:
    """Return what each criterion of a score needs."""
    return [needs_of(criterion) for criterion in named(name)]


def parts(name: str) -> tuple[str, ...]:
    """Return the names of a score's criteria, spelt as they are registered.

    Example:
        >>> parts("ntk-sap + crop")
        ('ntk_sap', 'crop')
    """
    return tuple(part.strip().replace("-", "_") for part in name.split("+"))


__all__ = [
    "CRITERIA",
    "DEFAULT",
    "Criterion",
    "Needs",
    "bn_scale",
    "crop",
    "crop_gradflow",
    "filter_norm",
    "force",
    "gate_taylor",
    "grasp",
    "magnitude",
    "named",
    "needed",
    "needs",
    "needs_of",
    "ntk_sap",
    "ntk_sap_kept",
    "ntk_sap_redrawn",
    "parts",
    "random",
    "snip",
    "synflow",
]
