"""Scores don't depend on how samples are chunked: the largest difference between chunks of 4 and of 16.

    python -m benchmarks.chunks [--only resnet18 ...] [--again]

Untrained torchvision networks at 224 px, one mini-batch of 16 random inputs, float32, seed 0.
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from torch import Tensor

from benchmarks.rows import Row, collect, print_table
from benchmarks.zoo import EIGHT
from structprune.channels import channel_groups
from structprune.scoring.samples import random_samples
from structprune.scoring.score import Scoring, score

CRITERIA = ("snip", "crop", "ntk_sap")
CHUNKS = (4, 16)


def run(name: str) -> Row:
    """Score a network at both chunks; differences are relative to the largest score."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    example = (torch.randn(2, 3, 224, 224),)
    groups = channel_groups(model, example)
    samples = random_samples(model, example, count=16)

    def scored(criterion: str, chunk: int) -> Tensor:
        # One draw, so that NTK-SAP's mini-batch is as large as the larger chunk.
        found = score(model, groups, samples, Scoring(criterion, chunk=chunk, draws=1))
        return torch.cat(list(found.values.values()))

    differences = {}
    for criterion in CRITERIA:
        few, many = (scored(criterion, chunk) for chunk in CHUNKS)
        differences[criterion] = float((few - many).abs().max() / many.max())
    return {"network": name, "chunks": CHUNKS, "samples": 16, "difference": differences}


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=EIGHT)
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    rows = collect("chunks", asked.only, run, again=asked.again)
    cells = ((row["network"], *(f"{row['difference'][c]:.1e}" for c in CRITERIA)) for row in rows)
    print_table(("network", *CRITERIA), cells)


if __name__ == "__main__":
    main()
