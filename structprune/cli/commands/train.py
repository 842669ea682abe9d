"""``structprune train``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from structprune.choices import listed
from structprune.cli import console as shell
from structprune.cli import options as o
from structprune.cli.checks import check
from structprune.cli.panels import flat, takes_options


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """All that ``train`` is told."""

    method: Annotated[str, typer.Option(help="A method, see structprune methods.")] = "structprune"
    task: Annotated[
        str,
        typer.Option(
            help="What is learned: digits, cifar10, cifar100, mnist, fashion-mnist (with --root), "
            "tiny-imagenet or imagenet (folders, with --root), a folder of class folders, or an .npz."
        ),
    ] = "digits"
    arch: Annotated[str, typer.Option(help="The network: a zoo's name or package.module:factory.")] = (
        "resnet18"
    )
    nodes: Annotated[
        str | None, typer.Option(metavar="FRACTION", help="Of the nodes, to remove; for methods on channels.")
    ] = None
    weights: Annotated[
        str | None, typer.Option(metavar="FRACTION", help="Of the weights, to mask; for methods on weights.")
    ] = None
    sparsity: Annotated[
        str | None, typer.Option(metavar="FRACTION", help="Of the method's own unit, whichever that is.")
    ] = None
    epochs: Annotated[
        int | None, typer.Option(help="In all, the same for every method. Default: the recipe's.")
    ] = None
    recipe: Annotated[str, typer.Option(help="How it is trained: default, or a paper's.")] = "default"
    root: Annotated[Path | None, typer.Option(help="Folder of the task's data.")] = None
    download: Annotated[bool, o.flag("--download", help="Fetch a torchvision data set into --root.")] = False
    test_data: o.TestData = None
    validation: Annotated[
        float, typer.Option(help="Fraction of the training images held out for every choice.")
    ] = 0.1
    input_size: o.InputSize = None
    mean: o.Mean = None
    std: o.Std = None
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. Default: the recipe's.")] = None
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="Images in a step. Default: the recipe's.")
    ] = None
    samples: o.Samples = None
    draws: o.Draws = 5
    steps: Annotated[
        int | None,
        typer.Option(
            help="Cuts of an iterative method, or ticks; CroPit makes two more. Default: the paper's."
        ),
    ] = None
    latest: Annotated[
        int | None,
        typer.Option(help="Epoch after which an early cut comes anyway. Default: a quarter of all."),
    ] = None
    published_length: Annotated[
        bool, o.flag("--published-length", help="Train as long as the published code, where that is longer.")
    ] = False
    published_detector: Annotated[
        bool,
        o.flag("--published-detector", help="Find the moment of an early cut as the published code does."),
    ] = False
    precision: Annotated[str, typer.Option(help=f"Of training: {listed('precision')}.")] = "float32"
    channels_last: Annotated[bool, o.flag("--channels-last", help="Lay images out with channels last.")] = (
        False
    )
    mirror: o.Mirror = None
    align: Annotated[int, typer.Option(help="Widths become multiples of it, or stay.")] = 1
    floor: o.Floor = 0.02
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Result folder. Default: ARCH-METHOD-nodes0.89 here."
        ),
    ] = None
    resume: Annotated[bool, o.flag("--resume", help="Go on where a training to this folder stopped.")] = False
    onnx: o.OnnxOptions
    measuring: o.MeasureOptions
    place: o.PlaceOptions
    force: o.Force = False
    shown: o.OutputOptions


@shell.guarded
@takes_options
def train(options: TrainCommand) -> None:
    """Train a network with any method of the papers, when to prune and what to prune."""
    check(flat(options))
    from structprune.cli.runs.train import run

    # Of several processes the first one speaks.
    with shell.speaking(options.shown.quiet or os.environ.get("RANK", "0") != "0") as say:
        done = run(options, say)
    if done is None:
        return
    report, folder = done
    from structprune.cli.runs.show import show_result

    show_result(report, folder, options.shown.json)
