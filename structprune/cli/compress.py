"""``structprune compress``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from structprune.cli import options as o
from structprune.cli import shell
from structprune.cli.checks import check, fraction
from structprune.errors import UsageError


@shell.guarded
def compress(
    network: o.Network,
    nodes: Annotated[
        str | None, typer.Option(metavar="FRACTION", help="Of the nodes, to remove: 0.89 removes 89 %.")
    ] = None,
    output: o.Output = None,
    arch: o.Arch = None,
    pretrained: o.Pretrained = False,
    trust_pickle: o.TrustPickle = False,
    classes: o.Classes = None,
    input_size: o.InputSize = None,
    input: o.Input = None,
    data: o.Data = None,
    test_data: o.TestData = None,
    mean: o.Mean = None,
    std: o.Std = None,
    finetune: Annotated[int, typer.Option(metavar="EPOCHS", help="Epochs on --data after the cut.")] = 0,
    distill: Annotated[
        bool, o.flag("--distill", help="Let the dense network teach while fine-tuning, beside the labels.")
    ] = False,
    correct: o.Correct = None,
    batch_size: o.BatchSize = 128,
    score: o.Score = "ntk_sap+crop",
    trained: o.Trained = None,
    accumulate: o.Accumulate = None,
    labels: o.Labels = None,
    mini_batch: o.MiniBatch = None,
    batch_norm: o.BatchNorm = "fixed",
    samples: o.Samples = None,
    draws: o.Draws = 5,
    chunk: o.Chunk = None,
    steps: Annotated[int, typer.Option(help="Cut in so many steps, rescoring in between.")] = 1,
    align: o.Align = 1,
    floor: o.Floor = 0.02,
    skip: o.Skip = [],  # noqa: B006  typer copies it
    only: o.Only = [],  # noqa: B006
    cut_padded: o.CutPadded = False,
    embedding: o.Embedding = False,
    weights: Annotated[str | None, typer.Option(hidden=True)] = None,
    export: Annotated[bool, o.flag("--export/--no-export", help="Write and prove ONNX.")] = True,
    opset: o.Opset = None,
    exporter: o.Exporter = "auto",
    rtol: o.Rtol = 1e-4,
    measure: Annotated[bool, o.flag("--measure/--no-measure", help="Measure what it bought.")] = True,
    measure_batch: o.Batches = [1, 8],  # noqa: B006  typer copies it
    threads: o.Threads = 1,
    energy_seconds: o.Seconds = 5.0,
    country: o.Country = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Remove a fraction of a network's nodes, prove it, export it and measure what it bought."""
    asked = dict(locals())
    _refuse_weights(weights)
    asked["nodes"] = fraction(nodes)
    check(asked)
    _refuse_untaught(distill, finetune)
    from structprune.cli.compressing import run

    with shell.speaking(quiet) as say:
        report, folder = run(asked, say)
    if json:
        shell.print_json(asdict(report))
        return
    from structprune.cli.showing import SHORT, show

    show(report, SHORT)
    shell.print_line(f"Written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def _refuse_untaught(distill: bool, epochs: int) -> None:
    if distill and not epochs:
        raise UsageError("--distill says how to fine-tune; say for how many epochs: --finetune 5")


def _refuse_weights(weights: str | None) -> None:
    if weights is not None:
        raise UsageError(
            f"--weights {weights}: this method removes nodes, as in --nodes 0.89; "
            "a zoo's trained weights come with --pretrained"
        )
