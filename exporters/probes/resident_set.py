"""The resident set of a process that does nothing but run one ONNX file; started by ``memory.py``.

    python -m exporters.probes.resident_set FILE INPUTS.npz THREADS RUNS

prints ``{"baseline": bytes, "load": {"peak": bytes, "after": bytes}, "first_run": ..., "steady": ...}``. It
imports no PyTorch, which would hide a small network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from exporters.runtime.import_ort import load_onnxruntime

STATUS = Path("/proc/self/status")
RESET_PEAK = "5"
"""What the kernel takes in ``clear_refs`` for: the peak begins again at what is resident now."""


def peak_resident_set() -> int:
    """Return the largest resident set that this process has had, in bytes.

    On Linux from ``VmHWM``: ``getrusage`` would do, but it starts a child at its parent's peak.
    """
    if STATUS.exists():
        return _status("VmHWM")
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # macOS counts in bytes, and a child from nothing.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident_set() -> int:
    """Return what this process has in memory now, in bytes."""
    if STATUS.exists():
        return _status("VmRSS")
    import psutil

    return int(psutil.Process().memory_info().rss)


def _status(row: str) -> int:
    rows = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(rows[row].split()[0]) * 1024


def phase(work: Callable[[], object]) -> dict[str, int]:
    """Do a phase's work and return the peak in it and what stays, in bytes.

    Where the system can't begin the peak anew, it is that of all phases so far.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    work()
    after = resident_set()
    # The peak may have been read a page too early.
    return {"peak": max(peak_resident_set(), after), "after": after}


def main(file: str, inputs: str, threads: str, runs: str) -> None:
    """Load the file, run it, and print what each phase took."""
    import numpy as np

    ort = load_onnxruntime()

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
    arrays = dict(np.load(inputs))
    found: dict[str, object] = {"baseline": peak_resident_set()}
    sessions: list[object] = []

    def load() -> None:
        sessions.append(ort.InferenceSession(file, options, providers=["CPUExecutionProvider"]))

    def run(times: int) -> None:
        for _ in range(times):
            sessions[0].run(None, arrays)  # type: ignore[attr-defined]  # ONNX Runtime has no types

    found["load"] = phase(load)
    found["first_run"] = phase(lambda: run(1))
    found["steady"] = phase(lambda: run(int(runs)))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
