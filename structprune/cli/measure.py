"""``structprune measure``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from structprune.cli import options as o
from structprune.cli import shell
from structprune.cli.checks import check


@shell.guarded
def measure(
    networks: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="One network or several; the first is the reference."),
    ],
    arch: o.Arch = None,
    pretrained: o.Pretrained = False,
    trust_pickle: o.TrustPickle = False,
    classes: o.Classes = None,
    input_size: o.InputSize = None,
    measure_batch: o.Batches = [1, 8],  # noqa: B006  typer copies it
    threads: o.Threads = 1,
    energy_seconds: o.Seconds = 5.0,
    country: o.Country = None,
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
        rows = [{"model": name, **asdict(m)} for name, m in zip(names, measured, strict=True)]
        shell.print_json({"schema": 1, "networks": rows})
    else:
        shell.print_table(measuring.side_by_side(names, measured))
        for note in measured[0].notes:
            shell.print_line(f"Note: {note}.")
