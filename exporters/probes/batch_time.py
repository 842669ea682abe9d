"""How long a batch takes, in PyTorch and in ONNX Runtime, in warmed blocks that take turns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from exporters.probes.readings import Reading, Readings, against_first
from exporters.runtime.networks import of_batch
from exporters.runtime.providers import PROVIDERS, Timed, device_kind
from exporters.runtime.runners import RUNTIMES
from structprune.report.data import Measurement, Runtime

BLOCKS = range(6, 25)
"""Fewest and most blocks a network; an even number, since every other round runs in reverse order."""

BLOCK_SECONDS = 0.05
"""Short, so that what disturbs the machine for a moment hits few of many blocks."""

WARM_SECONDS = 0.02


@dataclass(frozen=True)
class Plan:
    """How one network is timed.

    Attributes:
        warm: untimed runs at the head of every block.
        runs: timed runs in every block.
    """

    warm: int
    runs: int


def batch_time(
    dense: nn.Module | Path,
    pruned: nn.Module | Path,
    example: tuple[Tensor, ...],
    *,
    batch: int = 1,
    device: str = "cpu",
    threads: int = 1,
    seconds: float = 2.0,
) -> Measurement:
    """Time a batch through two networks: modules in PyTorch, ONNX files in ONNX Runtime.

    Args:
        dense: the network that came in.
        pruned: the network that goes out, in the same form.
        example: positional inputs, each of shape [B, ...]; repeated or cut to ``batch``.
        batch: inputs per run.
        device: ``"cpu"`` or ``"cuda"``.
        threads: CPU threads inside an operator.
        seconds: time to spend on each network, about.

    Returns:
        Samples are the medians of the blocks, in ms; percentiles 5, 50 and 95 over all runs are in ``extra``.

    Raises:
        DeviceUnavailableError: the device or ONNX Runtime's provider for it is not there.
    """
    readings = batch_times(
        (dense, pruned), example, batch=batch, device=device, threads=threads, seconds=seconds
    )
    return against_first(readings, 1)


def batch_times(
    networks: Sequence[nn.Module | Path],
    example: tuple[Tensor, ...],
    *,
    batch: int = 1,
    device: str = "cpu",
    threads: int = 1,
    seconds: float = 2.0,
    runtime: Runtime | None = None,
) -> Readings:
    """Time a batch through several networks of one form; arguments and errors as in :func:`batch_time`.

    They are modules or ONNX files, whichever ``runtime`` runs: a name in
    :data:`exporters.runtime.runners.RUNTIMES`, by default PyTorch as it stands for modules and ONNX Runtime
    for files.
    """
    inputs = of_batch(example, batch)
    runtime = runtime or ("torch" if isinstance(networks[0], nn.Module) else "onnxruntime")
    with ExitStack() as stack:
        stack.enter_context(cpu_threads(threads))
        opened = RUNTIMES[runtime].opened
        runs = [stack.enter_context(opened(network, inputs, device, threads)) for network in networks]
        blocks_NBR = timed_blocks(runs, seconds)
    return Readings(
        name="batch_time",
        runtime=runtime,
        batch=batch,
        threads=threads,
        unit="ms",
        how=_how(runtime, device, threads, len(blocks_NBR[0])),
        networks=tuple(_reading(blocks_BR) for blocks_BR in blocks_NBR),
        extra={"provider": PROVIDERS[device_kind(device)]} if RUNTIMES[runtime].of_files else {},
    )


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use ``threads`` CPU threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timed_blocks(runs: Sequence[Timed], seconds: float) -> list[np.ndarray]:
    """Time several runners in warmed blocks, one block of each in turn, every other round in reverse.

    Runs that alternate one by one let a large network evict a small one's weights from the cache; a block
    that begins with untimed runs measures each as it runs by itself. Rounds cancel what drifts.

    Args:
        runs: one runner a network.
        seconds: time to spend on each, about.

    Returns:
        For each runner the seconds of every timed run, of shape [blocks, runs]; equally many blocks for all.
    """
    typical = [_typical(run) for run in runs]
    plans = [plan(once) for once in typical]
    blocks = min(_blocks(once, its, seconds) for once, its in zip(typical, plans, strict=True))
    taken: list[list[list[float]]] = [[] for _ in runs]
    for block in range(blocks):
        order = range(len(runs)) if block % 2 == 0 else reversed(range(len(runs)))
        for network in order:
            taken[network].append(_block(runs[network], plans[network]))
    return [np.array(rows) for rows in taken]


def _typical(run: Timed) -> float:
    """Return the seconds of one run, the first ones not counted: they allocate and choose kernels."""
    run()
    return min(run() for _ in range(2))


def plan(once: float) -> Plan:
    """Fill a block of 0.05 s with runs of ``once`` seconds each, warmed for 0.02 s before.

    Example:
        >>> plan(0.001), plan(0.09), plan(2.0)
        (Plan(warm=20, runs=50), Plan(warm=1, runs=1), Plan(warm=0, runs=1))
    """
    runs = min(math.ceil(BLOCK_SECONDS / max(once, 1e-6)), 1000)
    # A run of half a second outlasts any effect of a cold cache.
    warm = 0 if once > 0.5 else min(math.ceil(WARM_SECONDS / max(once, 1e-6)), 200)
    return Plan(warm, runs)


def _blocks(once: float, its: Plan, seconds: float) -> int:
    affordable = int(seconds / (once * (its.warm + its.runs))) // 2 * 2
    return min(max(affordable, BLOCKS.start), BLOCKS.stop - 1)


def _block(run: Timed, its: Plan) -> list[float]:
    for _ in range(its.warm):
        run()
    return [run() for _ in range(its.runs)]


def _reading(blocks_BR: np.ndarray) -> Reading:
    low, middle, high = np.percentile(blocks_BR * 1e3, [5, 50, 95])
    extra = {"p5": float(low), "p50": float(middle), "p95": float(high), "runs": float(blocks_BR.size)}
    return Reading(tuple(float(block) for block in np.median(blocks_BR, axis=1) * 1e3), extra)


def _how(runtime: Runtime, device: str, threads: int, blocks: int) -> str:
    words = RUNTIMES[runtime].words.format(provider=PROVIDERS[device_kind(device)])
    where = f"{threads} CPU thread(s)" if device_kind(device) == "cpu" else f"on {device}"
    return f"{words}; {where}; medians of {blocks} warmed blocks, networks in turn"
