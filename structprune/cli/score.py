"""``structprune score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from structprune.cli import options as o
from structprune.cli import shell
from structprune.cli.checks import check


@shell.guarded
def score(
    network: o.Network,
    score: o.Score = "ntk_sap+crop",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the scores to a .json file."),
    ] = None,
    arch: o.Arch = None,
    pretrained: o.Pretrained = False,
    trust_pickle: o.TrustPickle = False,
    no_ema: o.NoEma = False,
    classes: o.Classes = None,
    input_size: o.InputSize = None,
    input: o.Input = None,
    data: o.Data = None,
    mean: o.Mean = None,
    std: o.Std = None,
    trained: o.Trained = None,
    loss: o.Loss = None,
    accumulate: o.Accumulate = None,
    labels: o.Labels = None,
    mini_batch: o.MiniBatch = None,
    batch_norm: o.BatchNorm = "fixed",
    skip: o.Skip = [],  # noqa: B006  typer copies it
    only: o.Only = [],  # noqa: B006
    cut_padded: o.CutPadded = False,
    embedding: o.Embedding = False,
    samples: o.Samples = None,
    draws: o.Draws = 5,
    chunk: o.Chunk = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Score every channel: to a file, and as a picture in the terminal."""
    asked: dict[str, Any] = {**locals(), "steps": 1, "test_data": None, "batch_size": 128}
    check(asked)
    from structprune.cli import scoring

    with shell.speaking(quiet) as say:
        document = scoring.run(asked, say)
    if output is not None:
        shell.written()
    if json:
        shell.print_json(document)
        return
    scoring.show(document)
    if output is not None:
        shell.print_line(f"Written to {output}")
