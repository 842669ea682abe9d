"""The methods as data: what is gated, what scores it and when. The papers' tables, one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """One row of a paper's table.

    Attributes:
        paper: where it is from.
        gates: what is scored and removed.
        score: the criterion, or the fusion of several.
        schedule: how often it is scored and cut.
        needs: what it can't do without.
    """

    paper: str
    gates: Literal["channels"]
    score: str
    schedule: Literal["one shot", "iterative"]
    needs: tuple[str, ...] = ()


METHODS: Mapping[str, Method] = {
    "structprune": Method("ours", "channels", "ntk_sap+crop", "one shot"),
    "random-s": Method("EarlyCroP, arXiv 2206.10451", "channels", "random", "one shot"),
    "magnitude": Method("Li et al., arXiv 1608.08710", "channels", "magnitude", "one shot", ("training",)),
    "snap": Method("Verdenius et al., arXiv 2006.00896", "channels", "snip", "one shot", ("data", "labels")),
    "crop-s": Method("EarlyCroP, arXiv 2206.10451", "channels", "crop", "one shot", ("data", "labels")),
    "ntk-sap-s": Method("after NTK-SAP, arXiv 2304.02840", "channels", "ntk_sap", "one shot"),
}
"""Name -> method. The training methods and those on weights join this table with the training loop."""
