"""The exporters, with what a user asked of them."""

from __future__ import annotations

from exporters.toolbox import Toolbox
from structprune.cli.gathering import Asked


def toolbox(asked: Asked) -> Toolbox:
    """Return what exports, proves and measures."""
    return Toolbox(
        opset=asked["opset"],
        exporter=asked["exporter"],
        rtol=asked["rtol"],
        device=asked["device"],
        batches=tuple(asked["measure_batch"]),
        threads=asked["threads"],
        seconds=asked["energy_seconds"],
        country=asked["country"],
    )
