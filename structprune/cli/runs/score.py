"""What ``score`` does once torch may be imported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from structprune.channels.scope import Scope
from structprune.cli import console as shell
from structprune.cli.commands.score import ScoreCommand
from structprune.cli.output_file import check_file, staged_file
from structprune.cli.runs.gather import Gathered, Say, Scored, check_early, gather, scope_of
from structprune.proofs.trial_cut import cuttable_groups
from structprune.report import Table
from structprune.scoring.fusion import ranks
from structprune.scoring.score import about_loss, loss_of, score
from structprune.workflows.outputs import check_finite, proof_inputs

BARS = "▁▂▃▄▅▆▇█"
COLUMNS = 48


def run(network: str, options: ScoreCommand, say: Say) -> dict[str, Any]:
    """Score a network as the options ask, write the scores where they are wanted, and return the document."""
    scored = Scored(options.network, options.data, options.scoring, options.place)
    check_early(scored)
    output = options.output
    if output is not None:
        check_file(output, options.force)
    document = _scored(gather(network, scored, say), scope_of(options.scope), say)
    if output is not None:
        with staged_file(output) as draft:
            draft.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return document


def _scored(gathered: Gathered, scope: Scope, say: Say) -> dict[str, Any]:
    model = gathered.network.model
    check_finite(model)
    say("finding coupled channels")
    inputs = proof_inputs(gathered.samples, gathered.scoring.seed)
    groups = cuttable_groups(model, gathered.network.example, inputs, scope)
    say("scoring")
    scores = score(model, groups, gathered.samples, gathered.scoring, telling=True)
    return {
        "schema": 1,
        "model": gathered.network.source.name,
        "score": scores.criterion,
        "data": gathered.samples.how,
        "loss": loss_of(gathered.samples, gathered.scoring),
        "trained": gathered.scoring.trained,
        "trained_why": gathered.trained_why,
        "seed": gathered.scoring.seed,
        "notes": [
            *gathered.network.notes,
            *(gathered.images.notes if gathered.images else ()),
            *([str(scores.taken)] if scores.taken else []),
            *about_loss(gathered.samples, gathered.scoring),
        ],
        "scores": {name: values.tolist() for name, values in scores.values.items()},
    }


def show(document: Mapping[str, Any]) -> None:
    """Draw a line a group: its channels sorted by rank over the whole network, from the worst on."""
    values = {name: torch.tensor(row) for name, row in document["scores"].items()}
    rows = tuple(
        (name, str(len(rank)), f"{rank.mean():.2f}", sparkline(sorted(rank.tolist())))
        for name, rank in ranks(values).items()
    )
    head = ("group", "channels", "mean rank", "rank of each channel in the whole network, sorted")
    shell.print_table(Table(f"{document['model']}: {document['score']}", head, rows))
    for note in document["notes"]:
        shell.print_line(f"Note: {note}.")


def sparkline(heights: Sequence[float], columns: int = COLUMNS) -> str:
    """Draw heights in [0, 1] as bars; more heights than columns are averaged.

    Example:
        >>> sparkline([0.0, 0.5, 1.0])
        '▁▅█'
    """
    count = min(columns, len(heights))
    edges = [round(i * len(heights) / count) for i in range(count + 1)]
    means = [sum(heights[a:b]) / (b - a) for a, b in pairwise(edges)]
    return "".join(BARS[min(int(mean * len(BARS)), len(BARS) - 1)] for mean in means)
