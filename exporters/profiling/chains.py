"""Chains of layers as ONNX models, and the time that the runtime spends on each side of a width."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.runtime.providers import Session, device_kind, onnx_runner, open_session

TAPS = {"3x3": 3, "1x1": 1, "depthwise": 3, "linear": 1}
"""Kind of layer -> height and width of its kernel."""

REPEATS = 2
SECONDS = 0.03
RUNS = (8, 60)


@dataclass(frozen=True)
class Link:
    """A layer of a chain."""

    kind: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Times:
    """Microseconds of a width met from both sides.

    Attributes:
        writing: of the layer that writes so many channels.
        reading: of the layer that reads them, with the reorders around it.
    """

    writing: float
    reading: float


def pair_links(kind: str, reference: int, width: int) -> list[Link]:
    """Return layers that go from a reference width to another and back, between two that begin and end it."""
    between = [Link("depthwise", width, width)] if kind == "depthwise" else []
    outer = "1x1" if kind == "depthwise" else kind
    pair = [Link(outer, reference, width), *between, Link(outer, width, reference)]
    whole = Link(outer, reference, reference)
    return [whole, *pair * REPEATS, whole]


def chain_model(links: Sequence[Link], side: int, precision: str) -> bytes:
    """Return an ONNX model of layers in a row, on an input of height and width ``side``.

    Weights are drawn so that what passes keeps its size: vanishing numbers are slow to compute with.
    """
    draws, dtype = np.random.default_rng(0), np.dtype(precision)
    kind = TensorProto.FLOAT16 if precision == "float16" else TensorProto.FLOAT
    nodes, weights = [], []
    for i, link in enumerate(links):
        shape = _weight_shape(link)
        spread = 1 / math.sqrt(math.prod(shape) / link.outputs)
        weights.append(
            numpy_helper.from_array((draws.standard_normal(shape) * spread).astype(dtype), f"w{i}")
        )
        nodes.append(_node(link, i))
    flat = links[0].kind == "linear"
    shape_in, shape_out = (_shape(width, side, flat) for width in (links[0].inputs, links[-1].outputs))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("input", kind, shape_in)],
        [helper.make_tensor_value_info(f"x{len(links)}", kind, shape_out)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _shape(width: int, side: int, flat: bool) -> list[int]:
    return [side * side, width] if flat else [1, width, side, side]


def _weight_shape(link: Link) -> tuple[int, ...]:
    taps = TAPS[link.kind]
    if link.kind == "linear":
        return link.inputs, link.outputs
    return link.outputs, 1 if link.kind == "depthwise" else link.inputs, taps, taps


def _node(link: Link, i: int) -> onnx.NodeProto:
    ends = ["input" if i == 0 else f"x{i}", f"w{i}"], [f"x{i + 1}"]
    if link.kind == "linear":
        return helper.make_node("MatMul", *ends)
    groups, taps = link.outputs if link.kind == "depthwise" else 1, TAPS[link.kind]
    return helper.make_node("Conv", *ends, kernel_shape=[taps] * 2, pads=[taps // 2] * 4, group=groups)


def pair_times(
    kind: str, reference: int, width: int, side: int, *, device: str, precision: str, threads: int
) -> Times:
    """Time a width between layers of a reference width.

    On the CPU the runtime says what each operator took. On CUDA it can't: there a chain without the layers in
    question is timed too, and either side gets half of what the two take together.

    Raises:
        DeviceUnavailableError: ONNX Runtime's provider for the device is not there.
    """
    links = pair_links(kind, reference, width)
    shape = _shape(reference, side, kind == "linear")
    x = np.random.default_rng(1).standard_normal(shape).astype(precision)
    with TemporaryDirectory(prefix="structprune-") as scratch:

        def opened(name: str, layers: Sequence[Link], **options: Any) -> Session:
            path = Path(scratch, f"{name}.onnx")
            path.write_bytes(chain_model(layers, side, precision))
            return open_session(path, device=device, threads=threads, **options)

        if device_kind(device) == "cpu":
            return by_operator(opened("chain", links, profile=Path(scratch, "trace")), x, links)
        return by_difference(opened("chain", links), opened("rest", rest_of(links)), x, links)


def by_operator(session: Session, x: npt.NDArray[Any], links: Sequence[Link]) -> Times:
    """Add up what the runtime's own record says of the layers, the first and the last one left out."""
    operators, us = _recorded(session, x)
    layers = [i for i, name in enumerate(operators) if name in LAYERS]
    inner, size = layers[1:-1], (len(links) - 2) // REPEATS
    reorders = [i for i in range(layers[0], layers[-1]) if i not in layers]
    if size == 3:  # around a depthwise layer; the layers beside it have the reorders
        middle = sum(us[i] for i in inner[1::3]) / REPEATS
        return Times(middle, middle)
    writing, reading = (sum(us[i] for i in inner[start::2]) / REPEATS for start in (0, 1))
    return Times(writing, reading + sum(us[i] for i in reorders) / REPEATS)


LAYERS = ("Conv", "FusedConv", "MatMul", "Gemm", "FusedMatMul")


def _recorded(session: Session, x: npt.NDArray[Any]) -> tuple[list[str], list[float]]:
    """Run the session under its own profiler; returns the operators in their order, and their times in us."""
    feed = {"input": x}
    session.run(None, feed)
    runs = 1 + _runs(lambda: session.run(None, feed))
    for _ in range(runs - 2):
        session.run(None, feed)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    operators = [e["args"]["op_name"] for e in nodes[: len(nodes) // runs]]
    us_RN = np.array([e["dur"] for e in nodes], dtype=float).reshape(runs, -1)[2:]
    # The record is in whole microseconds; a mean of the faster half is finer than a median.
    faster = np.sort(us_RN, axis=0)[: max(1, len(us_RN) // 2)]
    return operators, [float(us) for us in faster.mean(axis=0)]


def _runs(run: Any) -> int:
    """Run once, and return how many runs fill the time for a chain, that one counted."""
    start = time.perf_counter()
    run()
    once = max(time.perf_counter() - start, 1e-6)
    return min(max(RUNS[0], int(SECONDS / once)), RUNS[1])


def rest_of(links: Sequence[Link]) -> list[Link]:
    """Return a chain without the layers that it is there to time: depthwise ones, or all but both ends."""
    others = [link for link in links if link.kind != "depthwise"]
    return others if len(others) < len(links) else [links[0], links[-1]]


def by_difference(session: Session, rest: Session, x: npt.NDArray[Any], links: Sequence[Link]) -> Times:
    """Time whole runs of a chain and of the rest of it in turn, and share the difference equally."""
    import torch

    runs = [onnx_runner(each, [torch.from_numpy(x)]) for each in (session, rest)]
    seconds_RN = np.sort([[run() for run in runs] for _ in range(2 * RUNS[0])], axis=0)
    whole, others = seconds_RN[: RUNS[0]].mean(axis=0) * 1e6
    share = max(0.0, float(whole - others)) / (len(links) - len(rest_of(links)))
    return Times(share, share)
