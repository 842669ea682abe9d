"""``structprune measure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from structprune.cli import options as o
from structprune.cli import shell
from structprune.cli.checks import check


@shell.guarded
def measure(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="One network or several, or .onnx files; the first is the reference."
        ),
    ],
    arch: o.Arch = None,
    pretrained: o.Pretrained = False,
    trust_pickle: o.TrustPickle = False,
    no_ema: o.NoEma = False,
    classes: o.Classes = None,
    input_size: o.InputSize = None,
    input: o.Input = None,
    runtime: o.Runtimes = ["torch", "onnxruntime"],  # noqa: B006  typer copies it
    measure_batch: o.Batches = [1, 8, 32],  # noqa: B006
    threads: o.ThreadCounts = [1],  # noqa: B006
    layers: Annotated[
        bool, o.flag("--layers", help="Also the time of each layer, and which did not get faster.")
    ] = False,
    energy_seconds: o.Seconds = 5.0,
    country: o.Country = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure only if this machine is the one of the profile."),
    ] = None,
    device: o.Device = "cpu",
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Measure batch time, memory, disk, multiply-adds, energy and carbon of networks side by side."""
    asked = dict(locals())
    check(asked)
    from structprune.cli import measuring

    with shell.speaking(quiet) as say:
        names, measured = measuring.run(asked, say)
    if json:
        shell.print_json(measuring.document(names, measured))
        return
    for table in measuring.tables(names, measured):
        shell.print_table(table)
    for sentence in measuring.sentences(names, measured):
        shell.print_line(sentence)
