"""The peak resident set of a process that does nothing but run one ONNX file; started by ``memory.py``.

    python -m exporters.resident_set FILE INPUTS.npz THREADS RUNS

prints ``{"baseline": bytes, "peak": bytes}``. It imports no PyTorch, which would hide a small network.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from exporters.runtime import load_onnxruntime


def peak_resident_set() -> int:
    """Return the largest resident set that this process has had, in bytes.

    On Linux from ``VmHWM``: ``getrusage`` would do, but it starts a child at its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        rows = dict(row.split(":", 1) for row in status.read_text().splitlines() if ":" in row)
        return int(rows["VmHWM"].split()[0]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    # macOS counts in bytes, and a child from nothing.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(file: str, inputs: str, threads: str, runs: str) -> None:
    """Load the file, run it, and print what it took."""
    import numpy as np

    ort = load_onnxruntime()

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
    arrays = dict(np.load(inputs))
    baseline = peak_resident_set()
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    for _ in range(int(runs)):
        session.run(None, arrays)
    sys.stdout.write(json.dumps({"baseline": baseline, "peak": peak_resident_set()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
