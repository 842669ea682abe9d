"""From a module to an ONNX file with a dynamic batch, by whichever of PyTorch's two exporters copes."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from exporters.data_reads import Reads, data_reads
from exporters.onnx_traces import strip_traces
from exporters.runtime.networks import Flat, evaluating, flat, input_names, of_batch, run_outputs
from exporters.runtime.providers import first_line
from exporters.runtime.quiet import quiet
from structprune.choices import Exporter
from structprune.errors import InputError, OutputError

BATCH = "batch"
"""Name of the dynamic dimension."""

ONE_FILE = 1_900_000_000
"""Bytes of weights up to which everything goes into one file: protobuf ends at 2 GiB, graph included."""


@dataclass(frozen=True)
class OnnxExport:
    """What was written, and how.

    Attributes:
        path: the ONNX file.
        exporter: ``"legacy"`` or ``"dynamo"``: the one that wrote it.
        opset: version of ONNX's operator set.
        fallback: why the exporters tried before were given up, or None.
        input_names: in the order of the network's arguments.
        output_names: in the order of the network's outputs, nested ones flattened.
        fixed: what Python read of the inputs' values in a network that was traced, such as ``__bool__``: the
            file goes the way that the example went, whatever its own inputs are.
        whole: whether the exporter saw one way only: Python read neither a value nor a shape of what was
            traced, or nothing bounds the batch.
        most: the largest batch that goes the way that the file holds, as far as the exporter knows, or None.
    """

    path: Path
    exporter: str
    opset: int
    fallback: str | None
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    whole: bool = False
    most: int | None = None


@dataclass(frozen=True)
class _Job:
    model: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    opset: int | None
    external: bool
    reads: Reads


class _ExportError(Exception):
    """One exporter gave up; the next may cope."""


@dataclass(frozen=True)
class _Seen:
    """What an exporter saw of ways that its file doesn't hold.

    Attributes:
        doubts: what it warned of.
        most: the largest batch on the way that it took, or None where it knows of no bound.
    """

    doubts: tuple[str, ...] = ()
    most: int | None = None


@dataclass(frozen=True)
class _Written:
    opset: int
    seen: _Seen


_Export = Callable[[_Job, Path], _Seen]
"""Writes a draft."""


def to_onnx(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    opset: int | None = None,
    exporter: Exporter = "auto",
) -> OnnxExport:
    """Write a network as ONNX: evaluation mode, dynamic batch, one file unless it has 2 GB of weights.

    Args:
        model: the network; its modes are as before afterwards.
        example: its positional inputs, each of shape [B, ...]; any B >= 1.
        path: where the file goes; an existing file is replaced in one step.
        opset: version of the operator set, which the file has or nothing is written; the exporter's own
            default where None.
        exporter: ``"auto"`` tries one after the other and says why one was given up.

    Returns:
        What was written. Above 2 GB the weights lie beside it in ``<name>.data``.

    Raises:
        InputError: the network can't run on the example, or no exporter can write it.
        OutputError: the file can't be written.
    """
    # An exporter that sees a batch of 1 takes the 1 for a constant.
    inputs = of_batch(example, max([2, *(len(x) for x in example if x.dim())]))
    outputs, reads = _outputs(model, inputs)
    job = _Job(flat(model, inputs), inputs, outputs, opset, _weight_bytes(model) > ONE_FILE, reads)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            used, written, given_up = _first_that_works(job, draft, exporter)
            _move(draft, path)
    except OSError as error:
        raise OutputError(
            f"the ONNX file {path.name!r} can't be written: {error.strerror or error}"
        ) from error
    traced = used == "legacy"
    return OnnxExport(
        path,
        used,
        written.opset,
        "; ".join(given_up) or None,
        tuple(input_names(len(inputs))),
        job.outputs,
        fixed=tuple(sorted(reads.seen)) if traced and written.seen.doubts else (),
        whole=not written.seen.doubts and written.seen.most is None,
        most=written.seen.most,
    )


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[tuple[str, ...], Reads]:
    """Return the names of what the network puts out, and what it reads of its inputs' values on the way."""
    try:
        try:
            outputs, reads = data_reads(lambda: run_outputs(model, inputs), inputs)
        # Some networks do not run while they are watched; then nobody knows what they read.
        except Exception:
            outputs, reads = run_outputs(model, inputs), Reads({"what can't be watched"})
        return tuple(outputs), reads
    except InputError:
        raise
    # A network of the user's own may raise anything.
    except Exception as error:
        shapes = [tuple(x.shape) for x in inputs]
        raise InputError(
            f"the network can't run on inputs of shapes {shapes}: {first_line(error)}"
        ) from error


def _weight_bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def _legacy(job: _Job, draft: Path) -> _Seen:
    """Trace the network. What depends on the data is baked in, with no more than a warning."""
    if job.external:
        raise _ExportError("it writes no more than 2 GB")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", TracerWarning)
        torch.onnx.export(
            job.model,
            job.inputs,
            draft,
            dynamo=False,
            verbose=False,
            opset_version=job.opset,
            input_names=input_names(len(job.inputs)),
            output_names=list(job.outputs),
            dynamic_axes=_dynamic_axes(job),
        )
    warned = [str(warning.message) for warning in seen if issubclass(warning.category, TracerWarning)]
    silent = [f"{name} compares values of the inputs" for name in sorted(job.reads.silent)]
    return _Seen(tuple(doubt.partition(". ")[0] for doubt in (*warned, *silent)))


def _legacy_without_doubt(job: _Job, draft: Path) -> _Seen:
    """Trace the network, and give up where tracing warned that it baked something in."""
    seen = _legacy(job, draft)
    if seen.doubts:
        raise _ExportError(seen.doubts[0])
    return seen


def _dynamo(job: _Job, draft: Path) -> _Seen:
    """Read the network symbolically. Where its code compares the batch size, one side is taken."""
    batch = torch.export.Dim(BATCH)
    shapes = tuple({0: batch} if x.dim() else None for x in job.inputs)
    program = torch.onnx.export(
        job.model,
        job.inputs,
        draft,
        dynamo=True,
        verbose=False,
        opset_version=job.opset,
        input_names=input_names(len(job.inputs)),
        output_names=list(job.outputs),
        dynamic_shapes=(shapes,) if isinstance(job.model, Flat) else shapes,  # it takes any number of inputs
        external_data=job.external,
    )
    exported = program and program.exported_program
    constraints = exported.range_constraints if exported else {}
    # Sizes are called s0, s77; what comes from values is called u0.
    sizes = [bounds.upper for symbol, bounds in constraints.items() if str(symbol).startswith("s")]
    return _Seen(most=min((int(size) for size in sizes if size.is_Integer), default=None))


def _dynamic_axes(job: _Job) -> Mapping[str, Mapping[int, str]]:
    named = zip(input_names(len(job.inputs)), job.inputs, strict=True)
    return {name: {0: BATCH} for name, x in named if x.dim()}


# Tracing comes first: 0.5-2.5 s where dynamo takes 3-11 s (resnet18, mobilenet_v2, efficientnet_b0,
# densenet121), and ONNX Runtime computes the same of both. Its vice is to bake in what depends on the data. A
# warning of that kind hands over to dynamo, which reads control flow or refuses. Many are harmless, such as
# assertions on shapes; where dynamo can't, the trace is taken after all, and check_onnx decides, unless
# values of the inputs were read: then no comparison of a few inputs is a proof.
_ATTEMPTS: Mapping[Exporter, tuple[tuple[str, _Export], ...]] = {
    "auto": (("legacy", _legacy_without_doubt), ("dynamo", _dynamo), ("legacy", _legacy)),
    "dynamo": (("dynamo", _dynamo),),
    "legacy": (("legacy", _legacy),),
}


def _first_that_works(job: _Job, draft: Path, exporter: Exporter) -> tuple[str, _Written, list[str]]:
    """Return the exporter that wrote the draft, what it wrote, and why those before it were given up."""
    given_up: list[str] = []
    for name, export in _ATTEMPTS[exporter]:
        try:
            written = _attempt(job, draft, export)
        except _ExportError as error:
            given_up.append(f"{name}: {error}")
            continue
        return name, written, given_up
    raise InputError(
        f"the network can't be exported to ONNX ({'; '.join(given_up)}); try another opset or exporter"
    )


def _attempt(job: _Job, draft: Path, export: _Export) -> _Written:
    for leftover in draft.parent.iterdir():
        leftover.unlink()
    try:
        with quiet(), evaluating(job.model):
            seen = export(job, draft)
        written = _tidy(draft, job)
    except (_ExportError, OSError):
        raise
    # The exporters raise whatever the network, the tracer or the checker raises.
    except Exception as error:
        raise _ExportError(_plain(error)) from error
    if job.opset not in (None, written):
        # dynamo writes its own opset where it can't translate it.
        raise _ExportError(f"it wrote opset {written} where {job.opset} was asked for")
    return _Written(written, seen)


def _plain(error: Exception) -> str:
    # dynamo says in which of its steps it failed, in colours, and keeps the reason behind it.
    return first_line(error.__cause__ or error).replace("\x1b[96m", "").replace("\x1b[0m", "")


def _tidy(draft: Path, job: _Job) -> int:
    """Strip the draft of what says where it was made, check it, and return its opset."""
    import onnx

    # Read once, and written only where something had to go: a file may hold half a gigabyte.
    proto = onnx.load(draft, load_external_data=False)
    _require_dynamic_batch(proto, job)
    if strip_traces(proto):
        onnx.save(proto, draft)
    onnx.checker.check_model(draft)
    return next(int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def _require_dynamic_batch(proto: Any, job: _Job) -> None:
    batched = set(_dynamic_axes(job))
    for entry in proto.graph.input:
        if entry.name in batched and not entry.type.tensor_type.shape.dim[0].dim_param:
            raise _ExportError(f"it fixed the batch dimension of {entry.name!r}")


def _move(draft: Path, path: Path) -> None:
    """Move the draft into place, its weights first: a graph without weights is never seen."""
    draft_data, data = (place.with_name(f"{place.name}.data") for place in (draft, path))
    if draft_data.exists():
        draft_data.replace(data)
        draft.replace(path)
    else:
        draft.replace(path)
        data.unlink(missing_ok=True)
