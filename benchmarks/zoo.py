"""Torchvision networks compressed from the shell: target, proofs, untouched layers, time and memory.

    python -m benchmarks.zoo [--only resnet18 ...] [--align 16] [--nodes 0.89] [--again]

One process and one JSON a network. Untrained networks, 224 px, default samples and draws, no measuring.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import structprune
from benchmarks.rows import Row, collect, print_table

NETWORKS = (
    "resnet18",
    "resnet50",
    "vgg16_bn",
    "mobilenet_v2",
    "densenet121",
    "resnext50_32x4d",
    "regnet_y_400mf",
    "efficientnet_b0",
)


def run(name: str, nodes: float, align: int) -> Row:
    """Compress one network in a process of its own, then train a step of what came out."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "out")
        command = [sys.executable, "-m", "structprune", "compress", name, "--nodes", f"{nodes:g}"]
        command += ["--align", str(align), "--no-measure", "--quiet", "--json", "-o", str(folder)]
        start = time.perf_counter()
        with Path(scratch, "stderr").open("w") as stderr:
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
            _, status, usage = os.wait4(child.pid, 0)
        taken = {
            "seconds": round(time.perf_counter() - start, 1),
            "peak_rss_gb": round(usage.ru_maxrss / 1e6, 2),
        }
        code = os.waitstatus_to_exitcode(status)
        if code:
            return {
                "network": name,
                "exit_code": code,
                "error": Path(scratch, "stderr").read_text().strip(),
                **taken,
            }
        report = json.loads((folder / "report.json").read_text())
        return {"network": name, "exit_code": 0, **taken, **facts(report, align), "trains": trains(folder)}


def facts(report: dict[str, Any], align: int) -> dict[str, Any]:
    """Return what a reader wants to know of a report."""
    protected = {row["layer"] for row in report["protected"]}
    widths = report["widths"]
    return {
        "nodes_removed": report["nodes"]["removed"],
        "weights_removed": report["weights"]["removed"],
        "flops_removed": report["flops"]["removed"],
        "untouched": [n for n, (before, after) in widths.items() if before == after and n not in protected],
        "unaligned": [n for n, (before, after) in widths.items() if after % align and after != before],
        "proofs": {
            p["name"]: {k: p[k] for k in ("passed", "error", "error_of_spread")} for p in report["proofs"]
        },
        "steps": report["seconds"],
    }


def trains(folder: Path) -> bool:
    """Tell whether the loaded result has finite gradients after a step in training mode."""
    model = structprune.load(folder).train()
    model(torch.randn(2, 3, 224, 224)).square().mean().backward()
    return all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=NETWORKS)
    parser.add_argument("--nodes", type=float, default=0.89)
    parser.add_argument("--align", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    folder = f"zoo-nodes{asked.nodes:g}" + (f"-align{asked.align}" if asked.align > 1 else "")
    rows = collect(folder, asked.only, lambda name: run(name, asked.nodes, asked.align), again=asked.again)
    head = ("network", "nodes", "weights", "closed gates / s", "onnx / max", "onnx / s", "trains", "s", "GB")
    print_table(head, map(_cells, rows))


def _cells(row: Row) -> tuple[str, ...]:
    timing = (f"{row['seconds']:.0f}", f"{row['peak_rss_gb']:.2f}")
    if row["exit_code"]:
        return (row["network"], f"exit {row['exit_code']}: {row['error']}", "", "", "", "", "", *timing)
    closed, onnx = row["proofs"]["closed_gates"], row["proofs"]["onnx"]
    passed = all(proof["passed"] for proof in row["proofs"].values())
    return (
        row["network"] + ("" if passed and not row["untouched"] and not row["unaligned"] else " (!)"),
        f"{row['nodes_removed']:.4f}",
        f"{row['weights_removed']:.4f}",
        f"{closed['error_of_spread']:.0e}",
        f"{onnx['error']:.0e}",
        f"{onnx['error_of_spread']:.0e}",
        "yes" if row["trains"] else "NO",
        *timing,
    )


if __name__ == "__main__":
    main()
