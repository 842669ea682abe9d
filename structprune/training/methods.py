"""The methods as data: what is gated, what scores it and when. The papers' tables, one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from structprune.choices import Accumulate

CROP = "EarlyCroP, arXiv 2206.10451"
NTK_SAP = "NTK-SAP, arXiv 2304.02840"


@dataclass(frozen=True)
class Method:
    """One row of a paper's table.

    Attributes:
        paper: where it is from.
        gates: what is scored and removed: channels for good, weights under a mask, or nothing.
        score: the criterion, or the fusion of several.
        schedule: when: a name of ``structprune.training.session.PROGRAMS``.
        fractions: in which cumulative steps: a name of ``structprune.training.session.FRACTIONS``.
        steps: how many of them, where the fractions ask.
        accumulate: of criteria of the loss; None: by whether the network is trained.
        allocation: ``global`` ranks the whole network, ``conserved`` does so with scores that grow as their
            group narrows, ``uniform`` takes the same rate from every group.
        detector: what tells that it is time, for the schedule ``early``.
        l1: strength of the penalty on batch-norm scales before an early cut.
        needs: what it can't do without.
    """

    paper: str
    gates: Literal["channels", "weights", "nothing"]
    score: str
    schedule: str
    fractions: str = "one shot"
    steps: int = 1
    accumulate: Accumulate | None = "total"
    allocation: Literal["global", "conserved", "uniform"] = "global"
    detector: str | None = None
    l1: float = 0.0
    needs: tuple[str, ...] = ()

    @property
    def unit(self) -> Literal["nodes", "weights"] | None:
        """What its budget counts."""
        units: Mapping[str, Literal["nodes", "weights"]] = {"channels": "nodes", "weights": "weights"}
        return units.get(self.gates)


LABELS = ("data", "labels")
TRAINED = ("data", "labels", "training")

METHODS: Mapping[str, Method] = {
    "dense": Method("-", "nothing", "-", "dense"),
    "structprune": Method(
        "ours: NTK-SAP and |H g|, fused",
        "channels",
        "ntk_sap+crop",
        "before",
        "exponential",
        5,
        accumulate=None,
        needs=LABELS,
    ),
    # ---- channels, removed for good
    "random-s": Method(CROP, "channels", "random", "before", allocation="uniform"),
    "snap": Method("Verdenius et al., arXiv 2006.00896", "channels", "snip", "before", needs=LABELS),
    "crop-s": Method(CROP, "channels", "crop", "before", needs=LABELS),
    "cropit-s": Method(CROP, "channels", "crop", "before", "halving", 5, needs=LABELS),
    "earlycrop-s": Method(CROP, "channels", "crop", "early", detector="lazy_regime", needs=TRAINED),
    "earlybird": Method(
        "You et al., arXiv 1909.11957",
        "channels",
        "bn_scale",
        "early",
        detector="mask_distance",
        l1=1e-4,
        needs=TRAINED,
    ),
    "gate-decorators": Method(
        "You et al., arXiv 1909.08174",
        "channels",
        "gate_taylor",
        "tick tock",
        accumulate="abs",
        needs=TRAINED,
    ),
    "efficient-convnets": Method(
        "Li et al., arXiv 1608.08710",
        "channels",
        "filter_norm",
        "after",
        allocation="uniform",
        needs=("training",),
    ),
    "ntk-sap-s": Method(f"after {NTK_SAP}", "channels", "ntk_sap_redrawn", "before", "exponential", 20),
    # ---- weights, under masks
    "random-u": Method(CROP, "weights", "random", "before"),
    "magnitude": Method("Han et al., arXiv 1506.02626", "weights", "magnitude", "before"),
    "snip": Method("Lee et al., arXiv 1810.02340", "weights", "snip", "before", needs=LABELS),
    "iter-snip": Method(
        "de Jorge et al., arXiv 2006.09081", "weights", "snip", "before", "exponential", 60, needs=LABELS
    ),
    "force": Method(
        "de Jorge et al., arXiv 2006.09081", "weights", "force", "before", "exponential", 60, needs=LABELS
    ),
    "grasp": Method("Wang et al., arXiv 2002.07376", "weights", "grasp", "before", needs=LABELS),
    "synflow": Method("Tanaka et al., arXiv 2006.05467", "weights", "synflow", "before", "exponential", 100),
    "ntk-sap": Method(NTK_SAP, "weights", "ntk_sap_redrawn", "before", "exponential", 20),
    "crop-u": Method(CROP, "weights", "crop", "before", needs=LABELS),
    "cropit-u": Method(CROP, "weights", "crop", "before", "halving", 5, needs=LABELS),
    "earlycrop-u": Method(
        CROP, "weights", "crop", "early", "halving", 5, detector="lazy_regime", needs=TRAINED
    ),
    "ltr": Method(
        "Frankle and Carbin, arXiv 1803.03635; Renda et al., arXiv 2003.02389",
        "weights",
        "magnitude",
        "rewind",
        needs=TRAINED,
    ),
}
"""Name -> method, in the order of the EarlyCroP table: structured, then unstructured."""
