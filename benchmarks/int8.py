"""What int8 after pruning buys and costs: the pruned network's float32 file against its int8 one.

    python -m benchmarks.int8 [--only resnet18-digits ...] [--again]

From the shell, ``compress ... --int8``: a resnet18 as ``tools/train_digits.py`` trains it and a ResNet-20
trained on CIFAR-10 are mended on images, which calibrate too, and judged on others; torchvision's networks at
224 px are untrained, scored by filter norms and calibrated on random inputs, for the time alone. Both
files are timed in ONNX Runtime in warmed blocks that take turns, on one thread. CIFAR-10 and its weights are
no part of this project. One seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.rows import Row, collect, print_table
from benchmarks.scores import DATA, read

BATCHES = (1, 16)
UNTRAINED = ("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "efficientnet_b0")
NODES: Mapping[str, Sequence[float]] = {
    "resnet18-digits": (0.5, 0.75, 0.89),
    "resnet20-cifar10": (0.2, 0.4),
    **dict.fromkeys(UNTRAINED, (0.0, 0.5, 0.89)),
}
"""Network -> fractions of its nodes."""

CHECKOUT = Path(__file__).parents[1]


def run(network: str, nodes: float) -> Row:
    """Compress one network to one target from the shell, and read its report."""
    with TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "structprune", "compress", *_inputs(network, Path(scratch))]
        command += ["--nodes", f"{nodes:g}", "--int8", "--energy-seconds", "0.5", "--json", "-q"]
        command += [word for batch in BATCHES for word in ("--measure-batch", str(batch))]
        done = subprocess.run([*command, "-o", f"{scratch}/out"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{network} at {nodes:g}: {done.stderr.strip()}")
    report = json.loads(done.stdout)
    return {
        "network": network,
        "nodes": nodes,
        "removed": report["nodes"]["removed"],
        "batch_time": [m for m in report["measurements"] if m["name"] == "batch_time"],
        "int8": report["int8"],
        "notes": report["notes"],
    }


def _inputs(network: str, scratch: Path) -> Sequence[str]:
    """Return what is compressed and what on, as words of the command line."""
    if network == "resnet18-digits":
        weights = scratch / "resnet18.pt"
        command = [sys.executable, str(CHECKOUT / "tools" / "train_digits.py"), str(weights)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return str(weights), "--data", "digits"
    if network == "resnet20-cifar10":
        if not DATA.is_dir():
            raise SystemExit(f"this row needs the CIFAR-10 files in {DATA.name}, which are not there")
        learn, judge = (
            _saved(DATA / f"cifar10_{part}.npz", scratch / f"{part}.npz") for part in ("train20k", "test5k")
        )
        return str(DATA / "cifar10_resnet20.safetensors"), "--data", str(learn), "--test-data", str(judge)
    return network, "--score", "filter_norm"


def _saved(path: Path, out: Path) -> Path:
    images = read(path.name)
    classes = np.array(images.classes)
    np.savez(out, images=np.asarray(images.images), labels=images.labels, classes=classes)
    return out


HEAD = (
    "network",
    "nodes removed",
    *(f"int8 over float32, batch {batch}" for batch in BATCHES),
    "file, float32 over int8",
    "top-1 float32",
    "int8",
    "same class",
)


def _cells(row: Row) -> tuple[str, ...]:
    int8 = row["int8"]
    if int8 is None:
        return (row["network"], f"{row['removed']:.3f}", *[""] * 6)
    measured = int8["measurements"]
    times = {m["batch"]: _times(m["ratio"]) for m in measured if m["name"] == "batch_time"}
    size = next(m for m in measured if m["name"] == "disk")
    return (
        row["network"],
        f"{row['removed']:.3f}",
        *(times[batch] for batch in BATCHES),
        f"{size['dense']['median'] / size['pruned']['median']:.2f}x",
        *(_per_cent(int8[key]) for key in ("accuracy_before", "accuracy", "same_largest")),
    )


def _times(ratio: Any) -> str:
    return "{value:.2f}x ({low:.2f}-{high:.2f})".format(**ratio)


def _per_cent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(NODES), choices=list(NODES))
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    keys = {f"{name}-nodes{nodes:g}": (name, nodes) for name in asked.only for nodes in NODES[name]}
    rows = collect("int8", keys, lambda key: run(*keys[key]), again=asked.again)
    print_table(HEAD, map(_cells, rows))


if __name__ == "__main__":
    main()
