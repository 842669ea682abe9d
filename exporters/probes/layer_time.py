"""Where the time goes: layer by layer, in ONNX Runtime's own profile of several networks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from exporters.probes.node_modules import label_kernels, read_nodes
from exporters.probes.statistics import MARGIN, bootstrap_ratio
from exporters.runtime.networks import of_batch
from exporters.runtime.providers import feeds, open_session, run_once
from structprune.report.data import Ratio

ROUNDS = 5
WARM, RUNS = 5, 20
MATTERS = 0.01
"""The share of a network's time below which a layer is not named."""


@dataclass(frozen=True)
class LayerTime:
    """One layer's time in two networks.

    Attributes:
        layer: the module, or the place and operator where no module stands for it.
        dense: ms in the first network, or None where it has no such layer.
        pruned: ms in the other one, or None.
        ratio: dense / pruned with its interval, or None where one is missing or both are the same network.
        share: of the other network's time, summed over its layers.
    """

    layer: str
    dense: float | None
    pruned: float | None
    ratio: Ratio | None
    share: float

    @property
    def got_faster(self) -> bool:
        """Whether the whole interval lies beyond the margin."""
        return self.ratio is not None and self.ratio.low > 1 + MARGIN


Profile = Mapping[str, float]
"""Layer -> ms in one run."""


def layer_times(
    paths: Sequence[Path],
    example: tuple[Tensor, ...],
    *,
    batch: int = 1,
    device: str = "cpu",
    threads: int = 1,
) -> tuple[tuple[LayerTime, ...], ...]:
    """Profile ONNX files in turn, and hold each one's layers against the first one's.

    A session of its own is opened for every profile: where its buffers lie stays the same while it lives.

    Args:
        paths: ONNX files; the first is the reference.
        example: positional inputs, each of shape [B, ...]; repeated or cut to ``batch``.
        batch: inputs per run.
        device: ``"cpu"`` or ``"cuda"``.
        threads: CPU threads inside an operator.

    Returns:
        For each file its layers, the slowest of the first file's in front; the first one's without a ratio.

    Raises:
        InputError: a file can't be run.
        DeviceUnavailableError: ONNX Runtime's provider for the device is not there.
    """
    inputs = of_batch(example, batch)
    rounds = [[profile(path, inputs, device, threads) for path in paths] for _ in range(ROUNDS)]
    first, *others = ([each[i] for each in rounds] for i in range(len(paths)))
    alone = tuple(replace(row, ratio=None) for row in compared(first, first))
    return (alone, *(compared(first, other) for other in others))


def compared(dense: Sequence[Profile], pruned: Sequence[Profile]) -> tuple[LayerTime, ...]:
    """Match the layers of two networks by name; both have as many profiles, taken in turn."""
    total = sum(_medians(pruned).values())
    before, after = _medians(dense), _medians(pruned)
    order = sorted({**before, **after}, key=lambda layer: (-before.get(layer, 0.0), -after.get(layer, 0.0)))
    return tuple(
        LayerTime(
            layer,
            before.get(layer),
            after.get(layer),
            _ratio(layer, dense, pruned),
            after.get(layer, 0.0) / total if total else 0.0,
        )
        for layer in order
    )


def _medians(profiles: Sequence[Profile]) -> dict[str, float]:
    return {
        layer: float(np.median([profile[layer] for profile in profiles if layer in profile]))
        for layer in dict.fromkeys(layer for profile in profiles for layer in profile)
    }


def _ratio(layer: str, dense: Sequence[Profile], pruned: Sequence[Profile]) -> Ratio | None:
    if not all(layer in profile for profile in (*dense, *pruned)):
        return None
    return bootstrap_ratio([each[layer] for each in dense], [each[layer] for each in pruned])


def not_faster(layers: Sequence[LayerTime]) -> str:
    """Name in words the layers that matter and did not get faster, or return nothing.

    Example:
        >>> not_faster([LayerTime("conv1", 2.0, 2.0, Ratio(1.0, 0.9, 1.1), 0.4)])
        '1 layer did not get faster and takes 40 % of the time: conv1 (1.00x)'
    """
    slow = [row for row in layers if row.ratio and row.share >= MATTERS and not row.got_faster]
    slow.sort(key=lambda row: -row.share)
    if not slow:
        return ""
    names = ", ".join(f"{row.layer} ({row.ratio.value:.2f}x)" for row in slow if row.ratio)
    one = len(slow) == 1
    return (
        f"{len(slow)} layer{'' if one else 's'} did not get faster and take{'s' if one else ''} "
        f"{sum(row.share for row in slow):.0%} of the time: {names}"
    ).replace("%", " %")


def profile(path: Path, inputs: tuple[Tensor, ...], device: str = "cpu", threads: int = 1) -> Profile:
    """Run a file under ONNX Runtime's profiler; returns the median over runs for each layer, in ms."""
    kernels = kernel_times(_events(path, inputs, device, threads, WARM + RUNS))
    labels = label_kernels(kernels, read_nodes(path))
    layers_R: dict[str, Any] = defaultdict(lambda: 0.0)
    for kernel, taken_R in kernels.items():
        layers_R[labels[kernel]] = layers_R[labels[kernel]] + np.array(taken_R[-RUNS:])
    return {layer: float(np.median(taken_R)) for layer, taken_R in layers_R.items()}


def kernel_operators(path: Path, inputs: tuple[Tensor, ...], device: str = "cpu") -> list[str]:
    """Return the operators that ONNX Runtime calls in one run of a file, after its own optimisations."""
    return [operator for _, operator in kernel_times(_events(path, inputs, device, 1, runs=1))]


def _events(path: Path, inputs: tuple[Tensor, ...], device: str, threads: int, runs: int) -> Sequence[Any]:
    with TemporaryDirectory(prefix="structprune-") as folder:
        session = open_session(path, device=device, threads=threads, profile=Path(folder, "profile"))
        arrays = feeds(session, inputs)
        try:
            for _ in range(runs):
                run_once(session, arrays)
        finally:
            written = session.end_profiling()
        events: Sequence[Any] = json.loads(Path(written).read_text(encoding="utf-8"))
    return events


def kernel_times(events: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """Return (name, operator) -> ms of every run, in order, of the kernels in a profile.

    Args:
        events: as ONNX Runtime writes them: one a kernel and run, ``dur`` in microseconds. Kernels that it
            runs once, to fold constants while loading, are left out.
    """
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            taken[event["name"], event["args"]["op_name"]].append(event["dur"] / 1e3)
    most = max(map(len, taken.values()), default=0)
    return {kernel: times for kernel, times in taken.items() if len(times) == most}
