"""Does the protocol call the same network the same, and a tenth more work more?

``python -m benchmarks.same_twice``: for each runtime 20 comparisons of a network with a copy of itself, and
20 with a network of a tenth more blocks. A row holds the ratio, its interval and the verdict of one of them.
"""

from __future__ import annotations

import argparse
import copy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.rows import Row, collect, print_table
from exporters.probes.batch_time import batch_time
from exporters.to_onnx import to_onnx
from structprune.report.data import Measurement

RUNS = 20
BLOCKS, MORE_BLOCKS = 20, 22
EXAMPLE = (torch.randn(1, 32, 16, 16, generator=torch.Generator().manual_seed(0)),)

Pair = tuple[nn.Module, nn.Module]


def chain(blocks: int) -> nn.Module:
    """Build a chain of equal blocks: its time is that of one block times their number."""
    torch.manual_seed(0)
    parts = ((nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()) for _ in range(blocks))
    return nn.Sequential(*(part for pair in parts for part in pair)).eval()


def in_torch(pair: Pair) -> Measurement:
    """Time modules."""
    return batch_time(*pair, EXAMPLE)


def in_onnxruntime(pair: Pair) -> Measurement:
    """Time ONNX files; of the same network, one file and its copy."""
    with TemporaryDirectory(prefix="structprune-") as folder:
        first, second = Path(folder, "first.onnx"), Path(folder, "second.onnx")
        to_onnx(pair[1], EXAMPLE, first)
        if len(pair[0]) == len(pair[1]):  # type: ignore[arg-type]  # both are nn.Sequential
            shutil.copy(first, second)
        else:
            to_onnx(pair[0], EXAMPLE, second)
        return batch_time(second, first, EXAMPLE)


RUNTIMES: Mapping[str, Callable[[Pair], Measurement]] = {"torch": in_torch, "onnxruntime": in_onnxruntime}
KINDS: Mapping[str, int] = {"same": BLOCKS, "more": MORE_BLOCKS}


def run(key: str) -> Row:
    """Compare once: ``onnxruntime-same-07``."""
    runtime, kind, _ = key.split("-")
    short = chain(BLOCKS)
    other = copy.deepcopy(short) if kind == "same" else chain(KINDS[kind])
    taken = RUNTIMES[runtime]((other, short))
    assert taken.ratio is not None
    return {
        "ratio": taken.ratio.value,
        "low": taken.ratio.low,
        "high": taken.ratio.high,
        "verdict": taken.verdict,
        "ms": [taken.dense.median, taken.pruned.median],
        "samples": [taken.dense.samples, taken.pruned.samples],
    }


def found(row: Row) -> str:
    """Return what a verdict says in a word: ``faster``, ``slower`` or ``no difference``."""
    return next((word for word in ("faster", "slower") if word in row["verdict"]), "no difference")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="run every row anew")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    arguments = parser.parse_args()
    table = []
    for runtime in arguments.runtime or RUNTIMES:
        for kind in KINDS:
            keys = [f"{runtime}-{kind}-{index:02d}" for index in range(RUNS)]
            rows = collect("same_twice", keys, run, again=arguments.again)
            words = [found(row) for row in rows]
            ratios = sorted(row["ratio"] for row in rows)
            table.append(
                (
                    runtime,
                    "a copy of itself" if kind == "same" else f"{BLOCKS} blocks against {MORE_BLOCKS}",
                    f"{words.count('no difference')} of {len(rows)}",
                    f"{words.count('faster')} of {len(rows)}",
                    f"{words.count('slower')} of {len(rows)}",
                    f"{ratios[0]:.3f}-{ratios[-1]:.3f}",
                )
            )
    head = ("runtime", "compared", "no real difference", "faster", "slower", "ratios")
    print_table(head, table)


if __name__ == "__main__":
    main()
