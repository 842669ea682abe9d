"""Scores and a training, dealt among the processes of a torchrun; the first writes what they found."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from structprune.channels import channel_groups
from structprune.distributed import ProcessGroup, process_group_of_torchrun
from structprune.scoring.sampling import mini_batches_of
from structprune.scoring.score import Scoring, score, score_weights
from structprune.training import train
from tests.trainer.sessions import session

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("snip", {"accumulate": "total"}),
    ("crop", {"accumulate": "total"}),
    ("crop", {"accumulate": "abs"}),
    ("crop_gradflow", {"accumulate": "total"}),
    ("snip", {"accumulate": "square"}),
    ("gate_taylor", {}),
    ("ntk_sap_redrawn", {}),
    ("ntk_sap_kept", {}),
    ("ntk_sap+crop", {"labels": "drawn", "mini_batch": 4}),
)
ON_WEIGHTS = ("snip", "crop", "grasp", "synflow", "ntk_sap_redrawn")


def found(crew: ProcessGroup) -> dict[str, Any]:
    """Return scores by case, and what a training with a cut in it leaves."""
    asked = session("earlycrop-s", epochs=4, crew=crew)
    groups = channel_groups(asked.model, asked.example)
    # Three mini-batches of 16 for two processes: shares that differ.
    samples = replace(asked.samples, batches=mini_batches_of(asked.samples.batches, 16), crew=crew)
    scores: dict[str, Any] = {}
    for name, options in CASES:
        for trained in (False, True):
            scoring = Scoring(name, trained=trained, draws=3, **options)
            scores[f"{name} {options} {trained}"] = dict(score(asked.model, groups, samples, scoring).values)
    for name in ON_WEIGHTS:
        scores[f"weights {name}"] = dict(score_weights(asked.model, samples, Scoring(name, draws=3)).values)
    trained_network = train(replace(asked, samples=samples))
    assert trained_network.plan is not None
    return {
        "scores": scores,
        "keep": dict(trained_network.plan.keep),
        "state": trained_network.model.state_dict(),
        "cut after": trained_network.events[0].after,
        "loss": [epoch.loss for epoch in trained_network.log],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group_of_torchrun("cpu") as (members, _):
        result = found(members)
        torch.save({"size": members.size, **result}, Path(sys.argv[1]) / f"{members.rank}.pt")
