"""``structprune compress``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from structprune.cli import options as o
from structprune.cli import shell
from structprune.cli.checks import alignment, check, limits_of
from structprune.errors import UsageError


@shell.guarded
def compress(
    network: o.Network,
    nodes: Annotated[
        str | None, typer.Option(metavar="FRACTION", help="Of the nodes, to remove: 0.89 removes 89 %.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="LIMIT", help="Of conv and linear weights: 0.9 or 90% to remove, 2M to leave."),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(metavar="LIMIT", help="Of all parameters: 0.9 or 90% to remove, 2M to leave."),
    ] = None,
    flops: Annotated[
        str | None,
        typer.Option(metavar="LIMIT", help="Of multiply-adds: 0.9 or 90% to remove, 300M to leave."),
    ] = None,
    latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="A batch in ONNX Runtime on the CPU may take: 2ms.")
    ] = None,
    speedup: Annotated[
        str | None, typer.Option(metavar="FACTOR", help="The dense network's time over the pruned one's: 4.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Peak resident set of the ONNX file's process: 60MB.")
    ] = None,
    disk: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Bytes of the ONNX file: 0.9 or 90% to remove, 5MB.")
    ] = None,
    output: o.Output = None,
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
    finetune: Annotated[int, typer.Option(metavar="EPOCHS", help="Epochs on --data after the cut.")] = 0,
    distill: Annotated[
        bool | None,
        o.flag(
            "--distill/--no-distill",
            help="Let the dense network teach while fine-tuning, beside the labels. Default: where it is "
            "trained and right on half of the scoring images.",
        ),
    ] = None,
    mirror: o.Mirror = None,
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
    steps: Annotated[int, typer.Option(help="Cut in so many steps, rescoring in between.")] = 1,
    align: o.AlignAuto = "1",
    profile: o.Profile = None,
    floor: o.Floor = 0.02,
    skip: o.Skip = [],  # noqa: B006  typer copies it
    only: o.Only = [],  # noqa: B006
    cut_padded: o.CutPadded = False,
    embedding: o.Embedding = False,
    export: Annotated[bool, o.flag("--export/--no-export", help="Write and prove ONNX.")] = True,
    opset: o.Opset = None,
    exporter: o.Exporter = "auto",
    rtol: o.Rtol = 1e-4,
    int8: o.Int8 = False,
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
    """Remove a fraction of a network's nodes, or the least that keeps every limit; prove, export, measure."""
    asked = dict(locals())
    asked["limits"] = limits_of(asked)
    asked["align"] = alignment(align, profile is not None)
    check(asked)
    _refuse_untaught(distill, finetune)
    from structprune.cli.compressing import run

    with shell.speaking(quiet) as say:
        report, folder = run(asked, say)
    shell.written()
    if json:
        shell.print_json(asdict(report))
        return
    from structprune.cli.showing import SHORT, show

    show(report, SHORT)
    shell.print_line(f"Written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def _refuse_untaught(distill: bool | None, epochs: int) -> None:
    if distill is not None and not epochs:
        name = "--distill" if distill else "--no-distill"
        raise UsageError(f"{name} says how to fine-tune; say for how many epochs: --finetune 5")
