"""What aligned widths buy: batch time in ONNX Runtime of --align 16 against no alignment, same target.

    python -m benchmarks.align [--only resnet18 ...] [--nodes 0.89] [--align 16] [--batches 1] [--again]

Both networks are cut from the same scores; their files are timed in interleaved blocks in one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.rows import Row, collect, print_table
from benchmarks.zoo import EIGHT
from exporters.probes.batch_time import batch_time
from exporters.to_onnx import to_onnx
from structprune.channels import channel_groups
from structprune.errors import TargetUnreachableError
from structprune.pruning.budget import Budget, Plan, select
from structprune.pruning.counts import widths
from structprune.pruning.surgery import shrink
from structprune.report.data import Measurement
from structprune.scoring.samples import random_samples
from structprune.scoring.score import Scoring, score
from structprune.scoring.scores import Scores


def run(name: str, nodes: float, align: int, batches: Sequence[int]) -> Row:
    """Score one untrained network at 224 px, cut it both ways and time both files."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    example = (torch.randn(2, 3, 224, 224),)
    groups = channel_groups(model, example)
    scores = score(model, groups, random_samples(model, example), Scoring())
    free = select(scores.values, groups, Budget(nodes))
    try:
        aligned = select(scores.values, groups, Budget(nodes, align=align))
    except TargetUnreachableError as error:
        return {"network": name, "refused": str(error)}
    networks = [shrink(model, groups, plan).eval() for plan in (free, aligned)]
    odd = [
        n for n, (before, after) in widths(model, networks[1]).items() if after % align and after != before
    ]
    return {
        "network": name,
        "nodes_removed": {"free": free.reached, "aligned": aligned.reached},
        "kept_score": kept(scores, aligned) / kept(scores, free),
        "unaligned_layers": odd,
        "batch_time": [asdict(row) for row in times(networks, example, batches)],
    }


def kept(scores: Scores, plan: Plan) -> float:
    """Return the sum of the scores that a plan keeps."""
    return sum(float(scores.values[name][keep].sum()) for name, keep in plan.keep.items())


def times(
    networks: Sequence[nn.Module], example: tuple[Tensor, ...], batches: Sequence[int]
) -> list[Measurement]:
    """Time both networks in ONNX Runtime, one thread."""
    with TemporaryDirectory() as scratch:
        files = [Path(scratch, f"{i}.onnx") for i in range(len(networks))]
        for network, path in zip(networks, files, strict=True):
            to_onnx(network, example, path)
        return [batch_time(files[0], files[1], example, batch=batch) for batch in batches]


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=EIGHT)
    parser.add_argument("--nodes", type=float, default=0.89)
    parser.add_argument("--align", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()

    def one(name: str) -> Row:
        return run(name, asked.nodes, asked.align, asked.batches)

    rows = collect(f"align{asked.align}-nodes{asked.nodes:g}", asked.only, one, again=asked.again)
    head = (
        "network",
        "nodes",
        f"nodes, align {asked.align}",
        "kept score",
        "batch",
        "ms",
        "ms aligned",
        "faster by",
    )
    print_table(head, (cells for row in rows for cells in _cells(row)))


def _cells(row: Row) -> list[tuple[str, ...]]:
    if "refused" in row:
        return [(row["network"], f"refused: {row['refused']}", "", "", "", "", "", "")]
    free, aligned = row["nodes_removed"]["free"], row["nodes_removed"]["aligned"]
    return [
        (
            row["network"] + (" (!)" if row["unaligned_layers"] else ""),
            f"{free:.4f}",
            f"{aligned:.4f}",
            f"{row['kept_score']:.3f}",
            str(timed["batch"]),
            f"{timed['dense']['median']:.3g}",
            f"{timed['pruned']['median']:.3g}",
            "{value:.2f}x ({low:.2f}-{high:.2f})".format(**timed["ratio"]),
        )
        for timed in row["batch_time"]
    ]


if __name__ == "__main__":
    main()
