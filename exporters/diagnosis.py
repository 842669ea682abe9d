"""What a machine can do, each line proven by trying it where that is possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from exporters.probes.launch_bound import CHAINED, floor
from exporters.probes.tracker import Tracker
from exporters.runtime.import_ort import load_onnxruntime
from exporters.runtime.providers import first_line, open_session, run_once, running_provider
from exporters.to_onnx import to_onnx
from structprune.errors import StructpruneError
from structprune.report.data import Runtime

# Channels that one block of ONNX Runtime's convolution kernels holds, by instruction set.
CHANNEL_BLOCKS = {"AVX512": 16, "AVX2": 8, "DEFAULT": 4}


def diagnose() -> Mapping[str, str]:
    """Return finding -> words, in the order in which a reader wants them."""
    checks: Mapping[str, Callable[[], str]] = {
        "torch": lambda: f"{torch.__version__}, {torch.get_num_threads()} threads",
        "CUDA": _cuda,
        "ONNX Runtime on the CPU": lambda: _provider("cpu"),
        "ONNX Runtime on CUDA": lambda: _provider("cuda"),
        "calling an operator": _launch_costs,
        "energy": lambda: Tracker().source,
        "channel block of this CPU": _channel_block,
    }
    return {name: _tried(check) for name, check in checks.items()}


def _tried(check: Callable[[], str]) -> str:
    try:
        return check()
    except (StructpruneError, RuntimeError, OSError, ImportError) as error:
        return f"not there: {first_line(error)}"


def _cuda() -> str:
    if not torch.cuda.is_available():
        return "not there: torch finds no CUDA device"
    free, total = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"


def _provider(device: str) -> str:
    """Export a small network, run it, and ask the session what ran it."""
    onnxruntime = load_onnxruntime()

    with TemporaryDirectory(prefix="structprune-") as folder:
        path = Path(folder, "probe.onnx")
        to_onnx(nn.Conv2d(3, 16, 3), (torch.zeros(2, 3, 8, 8),), path)
        session = open_session(path, device=device)
        run_once(session, {session.get_inputs()[0].name: torch.zeros(2, 3, 8, 8).numpy()})
        return f"{onnxruntime.__version__}, {running_provider(session)}, proven by a run"


def _launch_costs() -> str:
    """Say what calls cost when there is next to nothing to compute."""
    return "; ".join(_launch_cost(runtime) for runtime in CHAINED)


def _launch_cost(runtime: Runtime) -> str:
    found = floor(runtime)
    heavy, light = 1e3 * found.heavy, 1e3 * found.light
    return f"{runtime} {heavy:.2g} us a convolution, {light:.2g} us another"


def _channel_block() -> str:
    instructions = torch.backends.cpu.get_cpu_capability()
    block = CHANNEL_BLOCKS.get(instructions)
    if block is None:
        return f"unknown for {instructions}"
    return f"{block} ({instructions}); align {block} gives widths that fill it"
