"""``structprune compress``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from structprune.cli import options as o
from structprune.cli import shell
from structprune.errors import UsageError

if TYPE_CHECKING:
    from structprune.report import Report


@shell.guarded
def compress(
    network: o.Network,
    nodes: Annotated[float | None, typer.Option(help="The fraction of nodes to remove, 0 to 1.")] = None,
    output: o.Output = None,
    arch: o.Arch = None,
    pretrained: o.Pretrained = False,
    trust_pickle: o.TrustPickle = False,
    classes: o.Classes = None,
    input_size: o.InputSize = None,
    data: o.Data = None,
    test_data: o.TestData = None,
    mean: o.Mean = None,
    std: o.Std = None,
    finetune: Annotated[int, typer.Option(metavar="EPOCHS", help="Epochs on --data after the cut.")] = 0,
    batch_size: o.BatchSize = 128,
    score: o.Score = "ntk_sap+crop",
    trained: o.Trained = None,
    accumulate: o.Accumulate = None,
    batch_norm: o.BatchNorm = "fixed",
    samples: o.Samples = None,
    draws: o.Draws = 5,
    chunk: o.Chunk = None,
    steps: Annotated[int, typer.Option(help="Cut in so many steps, rescoring in between.")] = 1,
    align: o.Align = 1,
    floor: o.Floor = 0.02,
    weights: Annotated[str | None, typer.Option(hidden=True)] = None,
    export: Annotated[bool, typer.Option("--export/--no-export", help="Write and prove ONNX.")] = True,
    opset: o.Opset = None,
    exporter: o.Exporter = "auto",
    rtol: o.Rtol = 1e-4,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Measure what it bought.")] = True,
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
    check_amount(asked)
    check_options(asked)
    from structprune.cli.compressing import run

    with shell.speaking(quiet) as say:
        report, folder = run(asked, say)
    if json:
        from dataclasses import asdict

        shell.print_json(asdict(report))
    else:
        _show(report, folder)


def check_amount(asked: dict[str, Any]) -> None:
    """Refuse a fraction that is none, without importing torch."""
    if asked["weights"] is not None:
        raise UsageError(
            f"--weights {asked['weights']} removes weights, which this method can't; "
            "--nodes removes channels, and --pretrained fetches a zoo's trained weights"
        )
    if asked["nodes"] is None:
        raise UsageError("say how much to remove: --nodes 0.89 removes 89 % of the nodes")
    if not 0 <= asked["nodes"] < 1:
        raise UsageError(f"--nodes {asked['nodes']:g} is no fraction from 0 to below 1; 0.89 removes 89 %")


CHOICES = {"accumulate": ("total", "abs", "square"), "batch_norm": ("fixed", "batch")}


def check_options(asked: dict[str, Any]) -> None:
    """Refuse options that make no sense, without importing torch."""
    for option in ("test_data", "finetune", "mean", "std"):
        if asked.get(option) and asked["data"] is None:
            raise UsageError(f"--{option.replace('_', '-')} needs --data")
    for option, known in CHOICES.items():
        if asked[option] is not None and asked[option] not in known:
            raise UsageError(
                f"--{option.replace('_', '-')} {asked[option]!r} is unknown; expected {', '.join(known)}"
            )
    if asked.get("finetune", 0) < 0 or asked["batch_size"] < 2:
        raise UsageError("--finetune takes 0 or more epochs and --batch-size 2 or more images")
    if asked["samples"] is not None and asked["samples"] < 4:
        raise UsageError(f"--samples {asked['samples']} is too few; at least 4 are scored and compared")


def _show(report: Report, folder: Path) -> None:
    from structprune import render

    shell.print_table(render.deployment_table(report), transposed=True)
    for table in (render.count_table(report), render.proof_table(report)):
        shell.print_table(table)
    out = shell.console()
    if report.accuracy is not None:
        parts = [f"before {report.accuracy.before:.2%}", f"cut {report.accuracy.cut:.2%}"]
        if report.accuracy.finetuned is not None:
            parts.append(f"fine-tuned {report.accuracy.finetuned:.2%}")
        out.print(f"Accuracy on {report.accuracy.images:,} images: {', '.join(parts)}.")
    if report.break_even is not None:
        out.print(f"Compressing pays for itself after {report.break_even:,.0f} inferences.")
    for note in report.notes:
        out.print(f"Note: {note}", markup=False)
    out.print(f"Written to {folder}: " + ", ".join(sorted(p.name for p in folder.iterdir())), markup=False)
