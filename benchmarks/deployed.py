"""What reaches the clock: dense, torch-pruning's own pruner, no alignment and --align auto, side by side.

    python -m benchmarks.deployed [--only resnet18@224 ...] [--nodes 0.89 ...] [--batches 1] [--threads 1]
                                  [--files FOLDER] [--cut] [--profile FILE] [--again]

Untrained networks, scored by the default fusion on 16 random inputs. torch-pruning (magnitude, one ranking)
is asked for what makes it remove as many nodes as ours; where it can't, for the nearest. All four files of a
row are timed in ONNX Runtime in warmed blocks that take turns in one process. ``--cut`` writes the files and
times nothing, so that the timing needs the machine for itself only while it times.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from benchmarks.align import kept
from benchmarks.rows import Row, collect, print_table
from benchmarks.torch_pruning_alone import prune
from exporters.probes.batch_time import batch_times
from exporters.probes.flops import count_flops
from exporters.probes.readings import against_first
from exporters.probes.statistics import bootstrap_ratio
from exporters.profiling.probe import probe
from exporters.to_onnx import to_onnx
from structprune.channels import channel_groups
from structprune.hardware import compare, device_layers, select_for
from structprune.hardware.profile import DeviceProfile, read_profile, this_machine, to_json
from structprune.nn.layers import node_layers, out_width, weighted_layers
from structprune.pruning.budget import Budget, select
from structprune.pruning.surgery import shrink
from structprune.scoring.samples import random_samples
from structprune.scoring.score import Scoring, score

NETWORKS = (
    "resnet18@224",
    "resnet18@32",
    "resnet50@224",
    "vgg16_bn@224",
    "mobilenet_v2@224",
    "efficientnet_b0@224",
)
NODES = (0.5, 0.7, 0.89)
SCORED_ON = 16
CONTENDERS = ("dense", "torch-pruning", "unaligned", "auto")
TRIES = 8
NEAR = 0.002
"""How far from ours torch-pruning's part of removed nodes may be before another ratio is tried."""


def cut(key: str, nodes: Sequence[float], folder: Path, profile: DeviceProfile) -> None:
    """Write the four files of a network at every target, and what is known of each."""
    wanted = {n: folder / f"{key}-nodes{n:g}.json" for n in nodes}
    if all(path.exists() for path in wanted.values()):
        return
    print(f"- cutting {key}", flush=True)
    model, example = network(key)
    groups = channel_groups(model, example)
    scores = score(model, groups, random_samples(model, example, SCORED_ON), Scoring())
    layers = device_layers(model, example, groups, profile)
    for target, path in wanted.items():
        free = select(scores.values, groups, Budget(target))
        auto = select_for(layers, scores.values, groups, Budget(target))
        theirs, their_ratio = by_torch_pruning(model, example, free.reached)
        ours = [shrink(model, groups, plan).eval() for plan in (free, auto)]
        networks = dict(zip(CONTENDERS, (model, theirs, *ours), strict=True))
        for name, each in networks.items():
            to_onnx(each, example, path.with_name(f"{path.stem}-{name}.onnx"))
        known = {
            "nodes_removed": {name: removed(model, each) for name, each in networks.items()},
            "flops": {name: count_flops(each, example) for name, each in networks.items()},
            "kept_score": kept(scores, auto) / kept(scores, free),
            "modelled": asdict(compare(layers, scores.values, groups, free, auto)),
            "torch_pruning_ratio": their_ratio,
            "profile": str(profile),
        }
        path.write_text(json.dumps(known), encoding="utf-8")


def network(key: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Build an untrained network and its example input: ``resnet18@32``."""
    name, _, side = key.partition("@")
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    return model, (torch.randn(2, 3, int(side), int(side)),)


def by_torch_pruning(model: nn.Module, example: tuple[Tensor, ...], nodes: float) -> tuple[nn.Module, float]:
    """Bisect the ratio that torch-pruning is asked for until it removes as many nodes; the nearest counts."""
    low, high, ratio = 0.0, 0.999, nodes
    best, best_ratio, best_off = model, 0.0, float("inf")
    for _ in range(TRIES):
        small = copy.deepcopy(model)
        prune(small, example, ratio)
        off = removed(model, small) - nodes
        if abs(off) < best_off:
            best, best_ratio, best_off = small.eval(), ratio, abs(off)
        if best_off < NEAR:
            break
        low, high = (ratio, high) if off < 0 else (low, ratio)
        ratio = (low + high) / 2
    return best, best_ratio


def removed(dense: nn.Module, small: nn.Module) -> float:
    """Return the part of the nodes that is gone, the output layer's not counted."""
    output = [name for name, _ in weighted_layers(dense)][-1]
    before, after = (
        sum(out_width(layer) for name, layer in node_layers(net) if name != output) for net in (dense, small)
    )
    return 1 - after / before


def timed(stem: str, folder: Path, batch: int, threads: int) -> Row:
    """Time the four files of a network and target."""
    known = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
    key, _, _ = stem.partition("-nodes")
    _, example = network(key)
    files = [folder / f"{stem}-{name}.onnx" for name in CONTENDERS]
    readings = batch_times(files, example, batch=batch, threads=threads)
    theirs, ours = (readings.networks[CONTENDERS.index(name)] for name in ("torch-pruning", "auto"))
    return {
        "network": key,
        "nodes": float(stem.partition("-nodes")[2]),
        "batch": batch,
        "threads": threads,
        **known,
        "batch_time": [asdict(against_first(readings, i)) for i in range(len(CONTENDERS))],
        "auto_over_torch_pruning": asdict(_ratio(theirs.samples, ours.samples)),
    }


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> Any:
    ratio = bootstrap_ratio(theirs, ours)
    assert ratio is not None
    return ratio


def the_profile(path: Path | None, folder: Path) -> DeviceProfile:
    """Read the profile that is given, or the one of an earlier run, or probe the machine once."""
    own = path or folder / "profile.json"
    if not own.exists():
        print("- probing", flush=True)
        own.write_text(to_json(probe(this_machine())), encoding="utf-8")
    return read_profile(own)


HEAD = (
    "network",
    "nodes",
    "batch",
    "threads",
    "dense ms",
    "torch-pruning",
    "unaligned",
    "auto",
    "auto over torch-pruning",
    "kept score",
    "fewer FLOPs: unaligned",
    "auto",
    "of it on the clock: unaligned",
    "auto",
)


def _cells(row: Row) -> tuple[str, ...]:
    ratios = [m["ratio"] for m in row["batch_time"][1:]]
    fewer = {name: row["flops"]["dense"] / row["flops"][name] for name in ("unaligned", "auto")}
    reached = row["nodes_removed"]
    short = abs(reached["torch-pruning"] - reached["auto"]) > NEAR
    at = f" at {reached['torch-pruning']:.3f}" if short else ""
    return (
        row["network"],
        f"{reached['auto']:.4f}",
        str(row["batch"]),
        str(row["threads"]),
        f"{row['batch_time'][0]['dense']['median']:.3g}",
        _times(ratios[0]) + at,
        *map(_times, ratios[1:]),
        _times(row["auto_over_torch_pruning"]),
        f"{row['kept_score']:.3f}",
        *(f"{times:.1f}x" for times in fewer.values()),
        *(f"{ratio['value'] / times:.0%}" for ratio, times in zip(ratios[1:], fewer.values(), strict=True)),
    )


def _times(ratio: Any) -> str:
    return "{value:.2f}x ({low:.2f}-{high:.2f})".format(**ratio)


def _closing(rows: Sequence[Row]) -> Iterable[str]:
    """Yield what the rows come to, for each batch size and number of threads, and in all."""
    settings = sorted({(row["batch"], row["threads"]) for row in rows})
    for batch, threads in settings:
        some = [row for row in rows if (row["batch"], row["threads"]) == (batch, threads)]
        yield f"Batch {batch}, {threads} thread(s), {len(some)} rows: {_summary(some)}"
    yield f"All {len(rows)} rows: {_summary(rows)}"


def _summary(rows: Sequence[Row]) -> str:
    over = np.array([row["auto_over_torch_pruning"]["value"] for row in rows])
    worst = rows[int(over.argmin())]
    least = min(row["kept_score"] for row in rows)
    return (
        f"auto over torch-pruning {np.exp(np.log(over).mean()):.2f}x in the geometric mean, at least "
        f"{over.min():.2f}x ({worst['network']} at {worst['nodes']:g}); kept score at least {least:.3f}"
    )


def main() -> None:
    """Cut, time and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(NETWORKS))
    parser.add_argument("--nodes", type=float, nargs="+", default=list(NODES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--files", type=Path, default=Path(gettempdir(), "deployed"))
    parser.add_argument("--cut", action="store_true")
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    asked.files.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = the_profile(asked.profile, asked.files)
        for key in asked.only:
            cut(key, asked.nodes, asked.files, profile)
    if asked.cut:
        return
    rows = [
        row for batch in asked.batches for threads in asked.threads for row in _rows(asked, batch, threads)
    ]
    print_table(HEAD, map(_cells, rows))
    print()
    for line in _closing(rows):
        print(line)


def _rows(asked: argparse.Namespace, batch: int, threads: int) -> list[Row]:
    stems = [f"{key}-nodes{nodes:g}" for key in asked.only for nodes in asked.nodes]

    def one(stem: str) -> Row:
        return timed(stem, asked.files, batch, threads)

    return collect(f"deployed/batch{batch}-threads{threads}", stems, one, again=asked.again)


if __name__ == "__main__":
    main()
