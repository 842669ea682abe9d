"""Cost of finding channels, trying cuts and proving one, against another checkout.

    python -m benchmarks.proving_cost --against CHECKOUT [--pairs 3] [--again]

Each network is cut once by each checkout, in a process of its own and in turn: the trace, the trial cut and
the proof of closed gates at half of the nodes, by random scores. The ratio is the median over the pairs. To
be run alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
import torchvision

from benchmarks.elsewhere import HERE, call
from benchmarks.rows import Row, collect, print_table
from structprune.channels import channel_groups
from structprune.proofs.closed_gates import closed_gates
from structprune.proofs.trial_cut import verified_groups
from structprune.pruning.budget import Budget, reachable, select
from structprune.pruning.surgery import shrink

NETWORKS = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "vgg16_bn",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "convnext_tiny",
    "vit_b_16",
)
"""Networks of torchvision, untrained, on images of their own size."""

SMALL = ("resnext50_32x4d", "mobilenet_v3_large", "densenet121")
"""Those that are measured on small images, too, where a pass costs little more than its Python."""

ROWS = {
    **{f"{name}@224": (name, 224) for name in NETWORKS},
    **{f"{name}@64": (name, 64) for name in SMALL},
}

STEPS = ("trace", "trial", "proof")


def seconds(name: str, side: int) -> dict[str, float]:
    """Wall time of each step, with the structprune that is imported."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    inputs = torch.rand(4, 3, side, side)
    start = time.perf_counter()
    groups = channel_groups(model, inputs[:1])
    traced = time.perf_counter()
    groups = verified_groups(model, groups, (inputs[:3],))
    tried = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    scores = {group.name: torch.rand(group.size, generator=generator) for group in groups}
    plan = select(scores, groups, Budget(min(0.5, reachable(groups, Budget(0.0)))))
    small = shrink(model, groups, plan).eval()
    cut = time.perf_counter()
    proof = closed_gates(model, small, groups, plan, (inputs,))
    proven = time.perf_counter()
    if not proof.passed:
        raise RuntimeError(proof.how)
    return {"trace": traced - start, "trial": tried - traced, "proof": proven - cut}


def _row(key: str, against: Path, pairs: int) -> Row:
    taken: dict[str, list[dict[str, float]]] = {"this": [], "other": []}
    for _ in range(pairs):
        for name, checkout in (("other", against), ("this", HERE)):
            taken[name].append(call(checkout, "benchmarks.proving_cost:seconds", *ROWS[key]))
    ratios = [
        sum(this.values()) / sum(other.values())
        for this, other in zip(taken["this"], taken["other"], strict=True)
    ]
    return {"seconds": taken, "ratios": ratios, "ratio": statistics.median(ratios)}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, required=True, help="root of another checkout")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    rows = collect(
        "proving_cost", ROWS, lambda key: _row(key, options.against, options.pairs), again=options.again
    )
    print_table(
        ("network", *(f"{step} [s]" for step in STEPS), "of the other's"),
        [_printed(row) for row in rows],
    )


def _printed(row: Row) -> list[str]:
    def middle(step: str) -> str:
        sides = [[taken[step] for taken in row["seconds"][name]] for name in ("other", "this")]
        before, after = map(statistics.median, sides)
        return f"{before:.2f} -> {after:.2f}"

    return [row["key"], *map(middle, STEPS), f"{row['ratio']:.2f}"]


if __name__ == "__main__":
    main()
