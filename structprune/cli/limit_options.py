"""Options that say how much of a network goes, and which widths may stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from structprune.cli.checks import alignment, limits_of
from structprune.cli.options import Floor
from structprune.limits.parse import QUANTITIES, Limit


@dataclass(frozen=True)
class LimitOptions:
    """What is to go, or may be left; several together are all kept."""

    PANEL: ClassVar[str] = "How much goes"
    nodes: Annotated[
        str | None, typer.Option(metavar="FRACTION", help="Of the nodes, to remove: 0.89 removes 89 %.")
    ] = None
    weights: Annotated[
        str | None,
        typer.Option(metavar="LIMIT", help="Of conv and linear weights: 0.9 or 90% to remove, 2M to leave."),
    ] = None
    params: Annotated[
        str | None,
        typer.Option(metavar="LIMIT", help="Of all parameters: 0.9 or 90% to remove, 2M to leave."),
    ] = None
    flops: Annotated[
        str | None,
        typer.Option(metavar="LIMIT", help="Of multiply-adds: 0.9 or 90% to remove, 300M to leave."),
    ] = None
    latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="A batch in ONNX Runtime on the CPU may take: 2ms.")
    ] = None
    speedup: Annotated[
        str | None, typer.Option(metavar="FACTOR", help="The dense network's time over the pruned one's: 4.")
    ] = None
    memory: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Peak resident set of the ONNX file's process: 60MB.")
    ] = None
    disk: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Bytes of the ONNX file: 0.9 or 90% to remove, 5MB.")
    ] = None
    steps: Annotated[int, typer.Option(help="Cut in so many steps, rescoring in between.")] = 1

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Every limit that is asked for.

        Raises:
            UsageError: none is, or one makes no sense.
        """
        return limits_of({name: getattr(self, name) for name in QUANTITIES})


@dataclass(frozen=True)
class WidthOptions:
    """Which widths may stay."""

    PANEL: ClassVar[str] = "Widths"
    align: Annotated[
        str,
        typer.Option(
            metavar="INTEGER|auto",
            help="Widths become multiples of it, or stay; auto: those that a device likes, by its profile.",
        ),
    ] = "1"
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of structprune profile, on the device that will run the network."),
    ] = None
    floor: Floor = 0.02

    @property
    def alignment(self) -> int | str:
        """Number that widths are multiples of, or ``auto``.

        Raises:
            UsageError: it is neither, or a profile is given beside a number.
        """
        return alignment(self.align, self.profile is not None)
