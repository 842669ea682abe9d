"""What ``measure`` does once torch may be imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from exporters.measure import Measured, Setting, measure_many
from exporters.networks import Network
from exporters.to_onnx import to_onnx
from structprune.cli import inputs
from structprune.cli.gathering import Asked, Say, read, stem
from structprune.errors import UsageError
from structprune.render import Table
from structprune.report import Measurement


def run(asked: Asked, say: Say) -> tuple[list[str], Sequence[Measured]]:
    """Read, export and measure networks in turns; returns a name and the measurements of each."""
    found = [_read(asked, spec, say) for spec in asked["networks"]]
    sizes = {network.size for network in found}
    if len(sizes) > 1:
        raise UsageError(
            f"networks with inputs of sizes {sorted(sizes)} can't be compared; give --input-size"
        )
    batches = tuple(asked["measure_batch"])
    setting = Setting(asked["device"], batches, asked["threads"], asked["energy_seconds"], asked["country"])
    names = [stem(spec) for spec in asked["networks"]]
    with TemporaryDirectory(prefix="structprune-") as scratch:
        networks = []
        for i, (name, network) in enumerate(zip(names, found, strict=True)):
            say(f"exporting {name}")
            path = Path(scratch, f"{i}.onnx")
            to_onnx(network.model, network.example, path)
            networks.append(Network(network.model, path))
        measured = measure_many(networks, found[0].example, setting, lambda name: say(f"measuring {name}"))
    return names, measured


def _read(asked: Asked, spec: str, say: Say) -> inputs.Network:
    # --arch is of weights, and names beside them need none.
    arch = asked["arch"] if Path(spec).exists() else None
    return read({**asked, "network": spec, "arch": arch}, say)


def side_by_side(names: Sequence[str], measured: Sequence[Measured]) -> Table:
    """Return a row a quantity and a column a network, with the ratio to the first."""
    rows = tuple(
        (_label(row[0]), _figure(row[0]), *(f"{_figure(m)}  {_ratio(m)}" for m in row[1:]))
        for row in zip(*(each.measurements for each in measured), strict=True)
    )
    return Table("Measured; ratios are the first network's figure over the column's", ("", *names), rows)


# Of these the unit alone doesn't tell what was counted, and the first words of ``how`` do.
NEED_WORDS = ("disk", "energy", "emissions")


def _label(row: Measurement) -> str:
    runtime = "" if row.runtime == "none" else f", {row.runtime}"
    batch = "" if row.batch is None else f", batch {row.batch}"
    words = f", {re.split('[,;] ', row.how)[0]}" if row.name in NEED_WORDS else ""
    return f"{row.name.replace('_', ' ')}{runtime}{batch}{words} [{row.unit}]"


def _figure(row: Measurement) -> str:
    return f"{row.pruned.median:.4g}"


def _ratio(row: Measurement) -> str:
    return "" if row.ratio is None else f"{row.ratio.value:.3g}x ({row.ratio.low:.3g}-{row.ratio.high:.3g})"
