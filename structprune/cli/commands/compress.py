"""``structprune compress``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from structprune.cli import console as shell
from structprune.cli import options as o
from structprune.cli.checks import check
from structprune.cli.limit_options import LimitOptions, WidthOptions
from structprune.cli.panels import flat, takes_options
from structprune.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CompressCommand:
    """All that ``compress`` is told."""

    target: LimitOptions
    network: o.NetworkOptions
    data: o.DataOptions
    scoring: o.ScoreOptions
    scope: o.ScopeOptions
    widths: WidthOptions
    correction: o.CorrectionOptions
    finetuning: o.FinetuneOptions
    onnx: o.OnnxOptions
    int8: Annotated[
        bool,
        o.flag(
            "--int8",
            help="Also an int8 file, calibrated on the data, compared and timed.",
            rich_help_panel="Export",
        ),
    ] = False
    measuring: o.MeasureOptions
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Result folder. Default: NAME-nodes0.89 here.",
            rich_help_panel="Run",
        ),
    ] = None
    place: o.PlaceOptions
    force: o.Force = False
    shown: o.OutputOptions


@shell.guarded
@takes_options
def compress(network: o.Spec, options: CompressCommand) -> None:
    """Remove a fraction of a network's nodes, or the least that keeps every limit; prove, export, measure."""
    _ = options.target.limits  # what makes no sense is refused before torch is imported
    check(flat(options))
    _refuse_untaught(options.finetuning)
    from structprune.cli.runs.compress import run

    with shell.speaking(options.shown.quiet) as say:
        report, folder = run(network, options, say)
    from structprune.cli.runs.show import show_result

    show_result(report, folder, options.shown.json)


def _refuse_untaught(finetuning: o.FinetuneOptions) -> None:
    if finetuning.distill is not None and not finetuning.finetune:
        name = "--distill" if finetuning.distill else "--no-distill"
        raise UsageError(f"{name} says how to fine-tune; say for how many epochs: --finetune 5")
