"""What ``measure`` does once torch may be imported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from exporters.measure import Measured, Setting, measure_many
from exporters.probes.layer_time import LayerTime, not_faster
from exporters.runtime.networks import Network
from exporters.runtime.onnx_inputs import check_inputs, random_inputs
from exporters.to_onnx import to_onnx
from structprune.cli.commands.measure import MeasureCommand
from structprune.cli.runs.gather import Say, read, stem
from structprune.cli.runs.network import read_inputs
from structprune.errors import UsageError
from structprune.hardware.profile import check_measuring, read_profile, this_machine
from structprune.report import Table
from structprune.report.data import Measurement

ONNX = ".onnx"


@dataclass(frozen=True)
class _Source:
    """A network as it was given.

    Attributes:
        model: the module, or None for an ONNX file.
        path: the ONNX file, or None for a module.
        example: inputs that it takes.
    """

    model: nn.Module | None
    path: Path | None
    example: tuple[Tensor, ...]


def run(specs: Sequence[str], options: MeasureCommand, say: Say) -> tuple[list[str], Sequence[Measured]]:
    """Read, export and measure networks in turns; returns a name and the measurements of each."""
    device, runtimes = options.place.device, options.runtime
    if options.profile is not None:
        check_measuring(read_profile(options.profile), this_machine(device))
    sources = [_source(options, spec, say) for spec in specs]
    _check_alike(sources)
    if all(network.model is None for network in sources) and "onnxruntime" not in runtimes:
        raise UsageError(f"--runtime {' '.join(runtimes)}: .onnx files run in onnxruntime alone")
    # A file may want another precision, and is fed in it.
    example = next((network.example for network in sources if network.model is not None), sources[0].example)
    names = names_of(specs)
    setting = Setting(
        device,
        tuple(options.measure_batch),
        tuple(options.threads),
        options.energy_seconds,
        options.country,
        tuple(runtimes),  # type: ignore[arg-type]  # checked by the parser's rules
        options.layers,
    )
    with TemporaryDirectory(prefix="structprune-") as scratch:
        networks = []
        for i, (name, network) in enumerate(zip(names, sources, strict=True)):
            networks.append(_exported(network, name, Path(scratch, f"{i}.onnx"), say))
        measured = measure_many(networks, example, setting, lambda name: say(f"measuring {name}"), names)
    return names, measured


def names_of(specs: Sequence[str]) -> list[str]:
    """Name networks in short; files of one name in several folders with the folder that they lie in.

    Where that still leaves two with one name, all go by what was given.

    Example:
        >>> names_of(["a/model.onnx", "b/model.onnx", "resnet18"])
        ['a/model', 'b/model', 'resnet18']
    """
    names = [stem(spec) for spec in specs]
    longer = [
        f"{Path(spec).parent.name}/{name}" if names.count(name) > 1 and Path(spec).parent.name else name
        for name, spec in zip(names, specs, strict=True)
    ]
    return longer if len({*longer}) == len({*specs}) else list(specs)


def _source(options: MeasureCommand, spec: str, say: Say) -> _Source:
    path, network = Path(spec), options.network
    if path.suffix == ONNX:
        if network.input is None:
            return _Source(None, path, random_inputs(path, network.input_size, options.place.seed))
        inputs = read_inputs(network.input)
        check_inputs(path, inputs)
        return _Source(None, path, inputs)
    # --arch is of weights, and names beside them need none.
    arch = network.arch if path.exists() else None
    source = read(spec, replace(network, arch=arch), options.place, say)
    return _Source(source.model, None, source.example)


def _check_alike(sources: Sequence[_Source]) -> None:
    taken = list(dict.fromkeys(_taken(network.example) for network in sources))
    if len(taken) > 1:
        raise UsageError(
            f"networks that take {', '.join(taken)} can't be compared; give --input-size, or --input with "
            "what all of them take"
        )


def _taken(example: Sequence[Tensor]) -> str:
    """Return the sizes of inputs without the batch; of numbers of any precision, or of whole numbers."""
    kinds = ((tuple(x.shape[1:]), "" if x.is_floating_point() else " whole numbers") for x in example)
    return " and ".join(f"{size}{kind}" for size, kind in kinds)


def _exported(network: _Source, name: str, path: Path, say: Say) -> Network:
    if network.path is not None:
        return Network(None, network.path)
    assert network.model is not None
    say(f"exporting {name}")
    to_onnx(network.model, network.example, path)
    return Network(network.model, path)


def document(names: Sequence[str], measured: Sequence[Measured]) -> dict[str, Any]:
    """Return everything that was measured, for JSON."""
    rows = [
        {"model": name, **asdict(each), "not_faster": not_faster(each.layers)}
        for name, each in zip(names, measured, strict=True)
    ]
    return {"schema": 1, "networks": rows}


def tables(names: Sequence[str], measured: Sequence[Measured]) -> Iterator[Table]:
    """Return everything side by side, memory by phase, and time by layer where it was asked for."""
    yield side_by_side(names, measured)
    if (by_phase := phases(names, measured)).rows:
        yield by_phase
    if len(measured) == 1 and measured[0].layers:
        yield layer_table(names[0], measured[0].layers)
    for name, each in list(zip(names, measured, strict=True))[1:]:
        if each.layers:
            yield compared_layers(names[0], name, each.layers)


def sentences(names: Sequence[str], measured: Sequence[Measured]) -> Iterator[str]:
    """Return verdicts in words, the layers that did not get faster, and the notes."""
    for name, each in list(zip(names, measured, strict=True))[1:]:
        for row in each.measurements:
            if row.name == "batch_time":
                yield f"{name}, {_label(row)}: {row.verdict}."
        if slow := not_faster(each.layers):
            yield f"{name}: {slow}."
    yield from (f"Note: {note}." for note in measured[0].notes)


def side_by_side(names: Sequence[str], measured: Sequence[Measured]) -> Table:
    """Return a row a quantity and a column a network, with the ratio to the first."""
    rows = tuple(
        (_label(row[0]), _figure(row[0]), *(f"{_figure(m)}  {_ratio(m)}" for m in row[1:]))
        for row in zip(*(each.measurements for each in measured), strict=True)
    )
    return Table("Measured; ratios are the first network's figure over the column's", ("", *names), rows)


PHASE_ENDS = ("_peak", "_after")


def phases(names: Sequence[str], measured: Sequence[Measured]) -> Table:
    """Return the memory of loading, the first run and later ones, peak and what stays."""
    taken = [next((m for m in each.measurements if m.name == "memory"), None) for each in measured]
    figures = [
        {key.removeprefix("pruned_"): value for key, value in m.extra.items() if key.startswith("pruned_")}
        for m in taken
        if m is not None
    ]
    ends = [key for key in (figures[0] if figures else ()) if key.endswith(PHASE_ENDS)]
    rows = tuple((key.replace("_", " "), *(f"{float(each[key]):.4g}" for each in figures)) for key in ends)
    return Table("Memory by phase, without interpreter and libraries [MB]", ("", *names), rows)


SHOWN = 15


def layer_table(name: str, layers: Sequence[LayerTime]) -> Table:
    """Return the slowest layers of a network that is measured alone."""
    rows = tuple((row.layer, _ms(row.pruned), _of(row)) for row in layers[:SHOWN])
    return Table(_slowest(layers), ("layer", name, f"of {name}"), rows)


def compared_layers(first: str, name: str, layers: Sequence[LayerTime]) -> Table:
    """Return the slowest layers of the first network, and what became of them."""
    rows = tuple(
        (row.layer, _ms(row.dense), _ms(row.pruned), f"{row.ratio.value:.2f}x" if row.ratio else "", _of(row))
        for row in layers[:SHOWN]
    )
    return Table(_slowest(layers), ("layer", first, name, "ratio", f"of {name}"), rows)


def _slowest(layers: Sequence[LayerTime]) -> str:
    return f"The slowest layers of {len(layers)}, in ONNX Runtime's profile [ms]"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _of(row: LayerTime) -> str:
    return f"{100 * row.share:.1f} %"


# Of these the unit alone doesn't tell what was counted, and the first words of ``how`` do.
NEED_WORDS = ("disk", "energy", "emissions")


def _label(row: Measurement) -> str:
    runtime = "" if row.runtime == "none" else f", {row.runtime}"
    batch = "" if row.batch is None else f", batch {row.batch}"
    threads = "" if row.name != "batch_time" else f", {row.threads} thread{'' if row.threads == 1 else 's'}"
    words = f", {re.split('[,;] ', row.how)[0]}" if row.name in NEED_WORDS else ""
    return f"{row.name.replace('_', ' ')}{runtime}{batch}{threads}{words} [{row.unit}]"


def _figure(row: Measurement) -> str:
    return f"{row.pruned.median:.4g}"


def _ratio(row: Measurement) -> str:
    return "" if row.ratio is None else f"{row.ratio.value:.3g}x ({row.ratio.low:.3g}-{row.ratio.high:.3g})"
