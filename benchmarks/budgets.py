"""Budgets in the units people pay in: what was asked, what the search settled on, what a fresh process finds.

    python -m benchmarks.budgets [--only resnet18 ...] [--case speedup ...] [--align 16 | auto] [--again]

Untrained networks of torchvision at 224 px, compressed from the shell with filter norms, without the final
measurements. Afterwards a process that knows nothing of the search times the result's ONNX file beside the
dense network's, batch 1, one thread, and reads the sizes off the files. It opens the files several times:
what a shared machine does in a few seconds isn't what it does in half a minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torchvision

from benchmarks.rows import Row, collect, print_table
from exporters.probes.batch_time import batch_time
from exporters.probes.disk import onnx_bytes
from exporters.probes.memory import resident_sets
from exporters.to_onnx import to_onnx

CASES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "speedup": {name: {"speedup": "4"} for name in ("resnet18", "mobilenet_v2")},
    "latency": {"resnet18": {"latency": "5ms"}, "mobilenet_v2": {"latency": "2ms"}},
    "several": {
        "resnet18": {"nodes": "0.3", "params": "80%", "speedup": "2.5", "disk": "8MB"},
        "mobilenet_v2": {"params": "50%", "flops": "100M", "speedup": "2", "memory": "75MB"},
    },
    "memory": {"resnet18": {"memory": "75MB"}},
    "unreachable": {name: {"speedup": "1000"} for name in ("resnet18", "mobilenet_v2")},
}
"""Case -> network -> limits."""

EXAMPLE = (3, 224, 224)
SECONDS = 4.0
OPENINGS = 5
"""Times that the fresh process opens the files; of its times and ratios the medians count."""


def run(name: str, limits: Mapping[str, str], align: str) -> Row:
    """Compress one network in a process of its own, and look at the result in another."""
    with TemporaryDirectory() as scratch:
        folder, dense = Path(scratch, "out"), Path(scratch, "dense.onnx")
        command = [sys.executable, "-m", "structprune", "compress", name, "--align", align]
        command += [word for limit, asked in limits.items() for word in (f"--{limit}", asked)]
        command += ["--score", "filter_norm", "--no-measure", "--json", "-q", "-o", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        asked = {"network": name, "limits": dict(limits), "align": align, "exit_code": done.returncode}
        if done.returncode:
            return {**asked, "error": done.stderr.strip(), "written": folder.exists()}
        report = json.loads(done.stdout)
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval()
        to_onnx(model, (torch.randn(2, *EXAMPLE),), dense)
        return {
            **asked,
            "met": report["limits"],
            "nodes_removed": report["nodes"]["removed"],
            "parameters": report["parameters"]["after"],
            "flops": report["flops"]["after"],
            "steps": report["seconds"],
            "fresh": _fresh(dense, folder / "model.onnx"),
        }


def _fresh(dense: Path, pruned: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.budgets", "--look-at", str(dense), str(pruned)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def look_at(dense: Path, pruned: Path) -> dict[str, Any]:
    """Measure two files; what the fresh process prints."""
    example = (torch.randn(1, *EXAMPLE),)
    timed = [batch_time(dense, pruned, example, seconds=SECONDS) for _ in range(OPENINGS)]
    (memory,) = resident_sets([pruned], example).networks
    ratios = sorted((row.ratio for row in timed if row.ratio), key=lambda ratio: ratio.value)
    return {
        "latency": median(row.pruned.median for row in timed),
        "dense_latency": median(row.dense.median for row in timed),
        "dense_latencies": [row.dense.median for row in timed],
        "speedup": asdict(ratios[OPENINGS // 2]),
        "disk": onnx_bytes(pruned) / 1e6,
        "memory": median(memory.samples),
    }


def fresh_over_asked(row: Row) -> dict[str, float]:
    """Return limit -> what the fresh process finds over what was asked; for speed-ups asked over found."""
    fresh, found = row["fresh"], {}
    now = {
        "nodes": row["nodes_removed"],
        "params": row["parameters"],
        "flops": row["flops"],
        **{name: fresh[name] for name in ("latency", "disk", "memory")},
    }
    for met in row["met"]:
        if met["name"] == "speedup":
            found["speedup"] = met["bound"] / fresh["speedup"]["value"]
        else:
            found[met["name"]] = now[met["name"]] / met["bound"]
    return found


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--align", default="16", help="a number, or auto")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--look-at", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.look_at:
        print(json.dumps(look_at(*asked.look_at)))
        return
    keys = {
        f"{name}-{case}": (name, CASES[case][name])
        for case in asked.case
        for name in asked.only
        if name in CASES[case]
    }
    rows = collect(
        f"budgets-align{asked.align}", keys, lambda key: run(*keys[key], asked.align), again=asked.again
    )
    head = ("network", "asked", "nodes", "reached", "fresh process", "found / asked", "looks", "search [s]")
    print_table(head, map(_cells, rows))
    for row in rows:
        if row["exit_code"]:
            print(f"- {row['network']}: {row['error']}")


def _cells(row: Row) -> tuple[str, ...]:
    asked = ", ".join(f"{name} {limit}" for name, limit in row["limits"].items())
    if row["exit_code"]:
        wrote = "something was written" if row["written"] else "nothing written"
        return (row["network"], asked, f"exit {row['exit_code']}, {wrote}", *[""] * 5)
    fresh = row["fresh"]
    timed = "{value:.2f}x ({low:.2f}-{high:.2f})".format(**fresh["speedup"])
    looks = [met["how"].rsplit("; ", 1)[-1].split()[0] for met in row["met"] if "measured to" in met["how"]]
    return (
        row["network"],
        asked,
        f"{row['nodes_removed']:.3f}",
        ", ".join(f"{met['name']} {met['reached']:,.4g}{met['unit']}" for met in row["met"]),
        f"{fresh['latency']:.3g} ms, {timed}, {fresh['disk']:.3g} MB, peak {fresh['memory']:.3g} MB",
        ", ".join(f"{name} {found:.3f}" for name, found in fresh_over_asked(row).items()),
        "/".join(looks),
        f"{row['steps']['search']:.1f}",
    )


if __name__ == "__main__":
    main()
