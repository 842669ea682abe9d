"""What a kept score costs: modelled speed-ups of --align auto as less and less of the score has to stay.

    python -m benchmarks.frontier [--only vgg16_bn@224 ...] [--nodes 0.89 ...] [--profile FILE] [--again]

The networks, scores and targets of ``benchmarks.deployed``. Times are the device profile's and nothing is
run but the probe, so that many bounds can be tried; torch-pruning's own network is modelled by the same.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import gettempdir

import numpy as np
from torch import Tensor, nn

from benchmarks.deployed import NETWORKS, NODES, SCORED_ON, by_torch_pruning, network, the_profile
from benchmarks.rows import Row, collect, print_table
from structprune.channels import channel_groups
from structprune.hardware import LEAST_WIDTH, compare, device_layers, layer_calls, layer_us, select_for
from structprune.hardware.profile import DeviceProfile
from structprune.nn.layers import in_width, node_layers, out_width
from structprune.pruning.budget import Budget, Plan, select
from structprune.scoring.samples import random_samples
from structprune.scoring.score import Scoring, score

BOUNDS: Mapping[str, tuple[float, float]] = {
    "0.95": (0.95, LEAST_WIDTH),
    "0.95, half widths": (0.95, 0.5),
    "0.95, any width": (0.95, 0.0),
    "0.9": (0.9, 0.0),
    "0.8": (0.8, 0.0),
    "0.7": (0.7, 0.0),
    "0.5": (0.5, 0.0),
}
"""Name -> the least part of the score, and of each width, without alignment that has to stay."""


def run(key: str, targets: list[float], profile: DeviceProfile) -> Row:
    """Choose widths at every target and bound."""
    model, example = network(key)
    groups = channel_groups(model, example)
    scores = score(model, groups, random_samples(model, example, SCORED_ON), Scoring()).values
    layers = device_layers(model, example, groups, profile)
    dense = modelled(model, example, profile)
    found: list[Row] = []
    for target in targets:
        free = select(scores, groups, Budget(target))
        theirs, _ = by_torch_pruning(model, example, free.reached)

        def speed(plan: Plan, free: Plan = free) -> Row:
            both = compare(layers, scores, groups, free, plan)
            return {"speedup": dense / both.us[1], "kept_score": both.kept}

        found.append(
            {
                "nodes": target,
                "torch-pruning": {"speedup": dense / modelled(theirs, example, profile)},
                "unaligned": speed(free),
                **{
                    name: speed(
                        select_for(
                            layers, scores, groups, Budget(target), least_score=kept, least_width=width
                        )
                    )
                    for name, (kept, width) in BOUNDS.items()
                },
            }
        )
    return {"network": key, "profile": str(profile), "dense_us": dense, "targets": found}


def modelled(model: nn.Module, example: tuple[Tensor, ...], profile: DeviceProfile) -> float:
    """Return the microseconds of a network's layers at the widths that they have."""
    layers = dict(node_layers(model))
    total = 0.0
    for call in layer_calls(model, example):
        widths = [np.array([float(width(layers[call.layer]))]) for width in (in_width, out_width)]
        total += float(layer_us(profile, call, *widths).sum())
    return total


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(NETWORKS))
    parser.add_argument("--nodes", type=float, nargs="+", default=list(NODES))
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    folder = Path(gettempdir(), "deployed")
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = the_profile(asked.profile, folder)
        rows = collect("frontier", asked.only, lambda key: run(key, asked.nodes, profile), again=asked.again)
    head = ("network", "nodes", "torch-pruning", "unaligned", *(f"kept {name}" for name in BOUNDS))
    print_table(head, (_cells(row["network"], found) for row in rows for found in row["targets"]))


def _cells(name: str, found: Row) -> tuple[str, ...]:
    ours = (f"{found[bound]['speedup']:.2f}x, {found[bound]['kept_score']:.2f}" for bound in BOUNDS)
    others = (f"{found[other]['speedup']:.2f}x" for other in ("torch-pruning", "unaligned"))
    return (name, f"{found['nodes']:g}", *others, *ours)


if __name__ == "__main__":
    main()
