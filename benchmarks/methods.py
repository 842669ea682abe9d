"""Every method trained on one task: accuracy, sparsities, and what the network costs afterwards.

    python -m benchmarks.methods [--task digits] [--arch resnet18] [--only NAME ...] [--seeds 3] [--epochs 6]

Each row is ``structprune train`` in a process of its own, once a seed; the first seed's run is measured
too (batch time, memory, disk, emissions), where --no-measure doesn't say otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.rows import Row, collect, print_table
from structprune.training.methods import METHODS


def run(name: str, asked: argparse.Namespace) -> Row:
    """Train once a seed, each in a process of its own."""
    rows = [_one(name, asked, seed) for seed in range(asked.seeds)]
    return {
        "method": name,
        "task": Path(asked.task).name,
        "arch": asked.arch,
        "asked": None if METHODS[name].unit is None else asked.sparsity,
        "epochs": asked.epochs,
        "rows": rows,
        "test": mean(row["test"] for row in rows),
        "deviation": stdev(row["test"] for row in rows) if len(rows) > 1 else None,
    }


def _one(name: str, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "out")
        command = [sys.executable, "-m", "structprune", "train", "--method", name, "--json", "--quiet"]
        command += ["--task", asked.task, "--arch", asked.arch, "--epochs", str(asked.epochs)]
        command += ["--seed", str(seed), "-o", str(folder), *asked.more]
        if METHODS[name].unit is not None:
            command += ["--sparsity", f"{asked.sparsity:g}"]
        if seed or asked.no_measure:
            command += ["--no-measure"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall = round(time.perf_counter() - start, 1)
        if done.returncode:
            raise RuntimeError(f"{name}, seed {seed}: exit {done.returncode}: {done.stderr.strip()}")
        return {**_facts(json.loads(done.stdout)), "seed": seed, "wall": wall}


def _facts(report: dict[str, Any]) -> dict[str, Any]:
    training = report["training"]
    return {
        "test": training["test"],
        "nodes": report["nodes"]["removed"],
        "weights": report["weights"]["removed"],
        "train_seconds": training["seconds"],
        "epochs": training["epochs"],
        "collapsed": training["collapsed"],
        "events": training["events"],
        "detection": training["detection"],
        "proofs": {proof["name"]: proof["passed"] for proof in report["proofs"]},
        "measurements": {
            f"{m['name']} {m['runtime']} {m['batch']}": {
                "unit": m["unit"],
                "dense": m["dense"]["median"],
                "pruned": m["pruned"]["median"],
                "ratio": m["ratio"],
            }
            for m in report["measurements"]
        },
    }


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="digits", help="as of structprune train")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--sparsity", type=float, default=0.88, help="of each method's own unit")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--only", nargs="+", default=list(METHODS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-measure", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("more", nargs="*", help="further options of structprune train, after --")
    asked = parser.parse_args()
    name = Path(asked.task).stem.partition(":")[0]
    folder = f"methods/{name}-{asked.arch}-{asked.sparsity:g}-{asked.epochs}epochs"
    rows = collect(folder, asked.only, lambda method: run(method, asked), again=asked.again)
    head = ("method", "accuracy", "weights", "nodes", "train s", *(title for title, _, _ in COLUMNS))
    print_table(head, map(_cells, rows))


COLUMNS: Sequence[tuple[str, str, str]] = (
    ("batch ms, torch", "batch_time torch 1", "{:.2f}"),
    ("batch ms, ORT", "batch_time onnxruntime 1", "{:.3f}"),
    ("memory MB", "memory onnxruntime 1", "{:.0f}"),
    ("disk MB", "disk none None", "{:.2f}"),
    ("gCO2e per 1,000", "emissions onnxruntime 1", "{:.1e}"),
)
"""Title, key of the measurement, form of its median on the network that came out."""


def _cells(row: Row) -> tuple[str, ...]:
    first = row["rows"][0]
    spread = "" if row["deviation"] is None else f" +- {100 * row['deviation']:.1f}"
    measured = first["measurements"]
    return (
        row["method"],
        f"{100 * row['test']:.1f}{spread}",
        f"{100 * mean(one['weights'] for one in row['rows']):.1f}",
        f"{100 * mean(one['nodes'] for one in row['rows']):.1f}",
        f"{mean(one['train_seconds'] for one in row['rows']):.0f}",
        *(form.format(measured[key]["pruned"]) if key in measured else "" for _, key, form in COLUMNS),
    )


if __name__ == "__main__":
    main()
