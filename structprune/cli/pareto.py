"""``structprune pareto``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from structprune.choices import listed
from structprune.cli import options as o
from structprune.cli import shell
from structprune.cli.checks import alignment, check


@shell.guarded
def pareto(
    network: o.Network,
    points: Annotated[int, typer.Option(help="Networks, the dense one and the deepest cut among them.")] = 8,
    by: Annotated[str, typer.Option(help=f"What falls in even steps: {listed('by')}.")] = "nodes",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Write pareto.json and pareto.svg there."),
    ] = None,
    arch: o.Arch = None,
    pretrained: o.Pretrained = False,
    trust_pickle: o.TrustPickle = False,
    no_ema: o.NoEma = False,
    classes: o.Classes = None,
    input_size: o.InputSize = None,
    input: o.Input = None,
    data: o.Data = None,
    test_data: o.TestData = None,
    mean: o.Mean = None,
    std: o.Std = None,
    correct: o.Correct = None,
    batch_size: o.BatchSize = 128,
    score: o.Score = "ntk_sap+crop",
    trained: o.Trained = None,
    loss: o.Loss = None,
    accumulate: o.Accumulate = None,
    labels: o.Labels = None,
    mini_batch: o.MiniBatch = None,
    batch_norm: o.BatchNorm = "fixed",
    samples: o.Samples = None,
    draws: o.Draws = 5,
    chunk: o.Chunk = None,
    align: o.AlignAuto = "1",
    profile: o.Profile = None,
    floor: o.Floor = 0.02,
    skip: o.Skip = [],  # noqa: B006  typer copies it
    only: o.Only = [],  # noqa: B006
    cut_padded: o.CutPadded = False,
    embedding: o.Embedding = False,
    opset: o.Opset = None,
    exporter: o.Exporter = "auto",
    measure_batch: Annotated[int, typer.Option("--measure-batch", help="Inputs in a timed batch.")] = 1,
    threads: o.Threads = 1,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Cut at several depths along one ranking: what each keeps, costs and takes, as a table and a drawing."""
    asked = {**locals(), "steps": 1, "measure_batch": [measure_batch]}
    asked["align"] = alignment(align, profile is not None)
    check(asked)
    from structprune.cli.sweeping import run

    with shell.speaking(quiet) as say:
        front = run(asked, say)
    if output is not None:
        shell.written()
    if json:
        shell.print_json(asdict(front))
        return
    from structprune.render import front_table

    shell.print_table(front_table(front))
    if front.accuracy_how:
        shell.print_line(f"Accuracy on {front.accuracy_how}.")
    for note in front.notes:
        shell.print_line(f"Note: {note}.")
    if output is not None:
        shell.print_line(f"Written to {output}: pareto.json, pareto.svg")
