"""How many bytes a network takes on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from exporters.probes.readings import Reading, Readings
from exporters.runtime.networks import Network, modules_of

MEGABYTE = 1e6


def onnx_bytes(path: Path) -> int:
    """Return the bytes of an ONNX file and of the files beside it that its weights lie in, if any do.

    Raises:
        OSError: one of them is not there.
    """
    import onnx

    weights = onnx.load(path, load_external_data=False).graph.initializer
    outside = [x for x in weights if x.data_location == onnx.TensorProto.EXTERNAL]
    places = {entry.value for x in outside for entry in x.external_data if entry.key == "location"}
    return sum(file.stat().st_size for file in (path, *(path.parent / place for place in sorted(places))))


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of the module's weights as a safetensors file, written to a temporary folder."""
    from safetensors.torch import save_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(model, str(path))
        return path.stat().st_size


def disk(networks: Sequence[Network]) -> tuple[Readings, ...]:
    """Size the networks' ONNX files, and their weights as safetensors, in MB of 1e6 bytes.

    Where a network is there as a file only, no weights are sized.
    """
    files = onnx_sizes([network.onnx for network in networks])
    weights = [weight_bytes(model) for model in modules_of(networks)]
    return (files, _readings("weights as safetensors", weights)) if weights else (files,)


def onnx_sizes(files: Sequence[Path]) -> Readings:
    """Size ONNX files, in MB of 1e6 bytes."""
    return _readings("ONNX file", [onnx_bytes(path) for path in files])


def _readings(what: str, sizes: Sequence[int]) -> Readings:
    return Readings(
        name="disk",
        runtime="none",
        batch=None,
        threads=None,
        unit="MB",
        how=f"{what}, bytes on disk / 1e6",
        networks=tuple(Reading((size / MEGABYTE,), {"bytes": float(size)}) for size in sizes),
        extra={"file": what},
    )
