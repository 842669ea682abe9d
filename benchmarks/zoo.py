"""Networks compressed from the shell: target, proofs, untouched layers, time and memory.

    python -m benchmarks.zoo [--only resnet18 ...] [--nodes 0.5 0.89] [--score SCORE] [--align 16] [--again]
    python -m benchmarks.zoo --libraries [--against CHECKOUT]

One process and one JSON a network and target. Untrained networks of torchvision, timm, transformers and
``benchmarks.networks``, their own input sizes, no measuring. Filter norms score where nothing else is asked
for, since target, proofs and exports are the same for every score; ``--score ntk_sap+crop`` takes the
default of ``compress``. What is refused is asked again at the highest fraction that the refusal names.

Networks of other libraries (``pip install .[zoo]``) have a table of their own, at half of the nodes: beside
what came out, the share of their nodes in groups and the highest share that can go, here and by the
structprune of another checkout. ``--reach`` finds out no more than these shares.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import structprune
from benchmarks import library_networks
from benchmarks.elsewhere import HERE
from benchmarks.reach import reach_with
from benchmarks.rows import RESULTS, Row, collect, print_table
from structprune.models.results.plan_file import read_plan

# fmt: off
NETWORKS = (
    "resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg16_bn", "alexnet",
    "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_s", "densenet121",
    "googlenet", "inception_v3",
    "squeezenet1_1", "shufflenet_v2_x1_0", "regnet_y_400mf", "regnet_x_400mf", "mnasnet1_0", "convnext_tiny",
    "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t", "deeplabv3_resnet50", "fcn_resnet50",
    "lraspp_mobilenet_v3_large",
    "timm:resnet26d", "timm:resnetv2_50", "timm:mobilenetv4_conv_small", "timm:repvgg_a0",
    "timm:ghostnet_100", "timm:vit_tiny_patch16_224", "timm:deit_tiny_patch16_224", "timm:convnext_atto",
    "timm:mixer_s32_224",
    "timm:edgenext_xx_small", "timm:efficientvit_b0", "timm:res2net50_26w_4s",
    "transformers:resnet", "transformers:vit",
    "cifar_resnet20", "cifar_resnet56", "earlycrop_vgg16", "mlp",
    *(f"benchmarks.networks:{name}" for name in (
        "bert", "cifar_resnet20_projected", "retinanet", "unet", "lstm", "bilstm", "gru", "groupnorm_resnet",
        "conv1d", "conv3d",
    )),
)
# fmt: on
LIBRARIES = tuple(f"benchmarks.library_networks:{name}" for name in library_networks.NAMES)
HALF = 0.5
EIGHT = (
    "resnet18",
    "resnet50",
    "vgg16_bn",
    "mobilenet_v2",
    "densenet121",
    "resnext50_32x4d",
    "regnet_y_400mf",
    "efficientnet_b0",
)
"""Networks of torchvision whose details other benchmarks look at."""
LEAST = re.compile(r"this network allows 0 to ([0-9.]+)")
THEIR_SECONDS, THEIR_BYTES = 60, 10 << 30


def run(name: str, nodes: float, score: str, align: int) -> Row:
    """Compress one network, again at the highest reachable fraction where it is refused."""
    first = _compressed(name, nodes, score, align)
    reachable = LEAST.search(first.get("error", ""))
    again = None
    if first["exit_code"] == 3 and reachable and float(reachable[1]) > 0:
        again = _compressed(name, float(reachable[1]), score, align)
    row = {"network": name, "asked": nodes, **first, "again": again}
    return row if name in LIBRARIES else {**row, "torch_pruning": _theirs(name, nodes)}


def _compressed(name: str, nodes: float, score: str, align: int) -> dict[str, Any]:
    """Compress in a process of its own, then train a step of what came out."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "out")
        command = [sys.executable, "-m", "structprune", "compress", name, "--nodes", f"{nodes:g}"]
        command += ["--align", str(align), "--score", score, "--no-measure", "--quiet", "--json"]
        command += ["-o", str(folder)]
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
            words = Path(scratch, "stderr").read_text().strip()
            return {"exit_code": code, "error": words, **taken}
        report = json.loads((folder / "report.json").read_text())
        return {"exit_code": 0, **taken, **facts(report, align), "trains": trains(folder)}


def facts(report: dict[str, Any], align: int) -> dict[str, Any]:
    """Return what a reader wants to know of a report."""
    protected = {row["layer"] for row in report["protected"]}
    widths = report["widths"]
    return {
        "nodes_removed": report["nodes"]["removed"],
        "weights_removed": report["weights"]["removed"],
        "flops_removed": report["flops"] and report["flops"]["removed"],
        "untouched": [n for n, (before, after) in widths.items() if before == after and n not in protected],
        "unaligned": [n for n, (before, after) in widths.items() if after % align and after != before],
        "proofs": {
            p["name"]: {k: p[k] for k in ("passed", "error", "error_of_spread")} for p in report["proofs"]
        },
        "steps": report["seconds"],
    }


def trains(folder: Path) -> bool:
    """Tell whether the loaded result has finite gradients after a step in training mode."""
    model = structprune.load(folder, trust_factory=True).train()
    shape, ids = read_plan(folder).input_shape, getattr(model, "input_ids", None)
    x = torch.randn(2, *shape) if ids is None else torch.randint(0, ids, (2, *shape))
    outputs = torch.utils._pytree.tree_leaves(model(x))
    losses = [y.square().mean() for y in outputs if isinstance(y, torch.Tensor) and y.requires_grad]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(grads) and all(bool(torch.isfinite(grad).all()) for grad in grads)


def _theirs(name: str, nodes: float) -> dict[str, Any]:
    """Ask torch-pruning's own pruner for the same, in a process with limits on time and memory."""
    command = [sys.executable, "-m", "benchmarks.torch_pruning_alone", name, f"{nodes:g}"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=THEIR_SECONDS,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (THEIR_BYTES, THEIR_BYTES)),
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {THEIR_SECONDS} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1][:150]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--libraries", action="store_true", help="only networks of other libraries")
    parser.add_argument("--against", type=Path, help="another checkout, for how much of these can go")
    parser.add_argument("--reach", action="store_true", help="only how much of these can go")
    parser.add_argument("--nodes", type=float, nargs="+", default=[0.5, 0.89])
    parser.add_argument("--score", default="filter_norm")
    parser.add_argument("--align", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    names = asked.only or (*(() if asked.libraries else NETWORKS), *LIBRARIES)
    if common := [name for name in names if name not in LIBRARIES]:
        _zoos(common, asked)
    if libraries := [name for name in names if name in LIBRARIES]:
        _libraries(libraries, asked)


def _zoos(names: Sequence[str], asked: argparse.Namespace) -> None:
    rows = _rows([(name, nodes) for name in names for nodes in asked.nodes], asked)
    head = (
        "network", "asked", "nodes", "weights", "closed gates / s", "onnx / max", "onnx / s", "trains", "s",
        "GB", "torch-pruning alone",
    )  # fmt: skip
    print_table(head, [(*_cells(row), _their_cell(row["torch_pruning"])) for row in rows])
    _print_reasons(rows)


def _rows(runs: Sequence[tuple[str, float]], asked: argparse.Namespace) -> list[Row]:
    folder = f"zoo-{asked.score}" + (f"-align{asked.align}" if asked.align > 1 else "")
    keys = {f"{_file(name)}@{nodes:g}": (name, nodes) for name, nodes in runs}
    return collect(folder, keys, lambda key: run(*keys[key], asked.score, asked.align), again=asked.again)


def _file(name: str) -> str:
    return name.replace(":", "-")


def _print_reasons(rows: Sequence[Row]) -> None:
    good = sum(_passed(row) for row in rows)
    print(f"\n{good} of {len(rows)} reach their target, or, refused, the highest there is, with every proof.")
    for row in rows:
        if row["exit_code"]:
            print(f"- {row['network']} at {row['asked']:g}: {row['error']}")


def _libraries(names: Sequence[str], asked: argparse.Namespace) -> None:
    if asked.against is not None:
        _reaches(names, "before", asked.against, asked.again)
    _reaches(names, "after", HERE, asked.again)
    rows = [] if asked.reach else _rows([(name, HALF) for name in names], asked)
    done = {row["network"]: _cells(row) for row in rows}
    sides = [_reach_cells(names, side) for side in ("before", "after")]
    head = ["network", "nodes", "in groups before", "after", "highest before", "after"]
    head += ["asked", "nodes", "weights", "closed gates / s", "onnx / max", "onnx / s", "trains", "s", "GB"]
    lines = []
    for name, (before, after) in zip(names, zip(*sides, strict=True), strict=True):
        reached = (after[0] or before[0], before[1], after[1], before[2], after[2])
        lines.append((name.partition(":")[2], *reached, *done.get(name, ("",) * 10)[1:]))
    print_table(head, lines)
    if rows:
        _print_reasons(rows)


def _reaches(names: Sequence[str], side: str, checkout: Path, again: bool) -> None:
    keys = {_file(name): name for name in names}
    collect(f"zoo-reach-{side}", keys, lambda key: reach_with(checkout, keys[key]), again=again)


def _reach_cells(names: Sequence[str], side: str) -> list[tuple[str, str, str]]:
    """Return nodes, share in groups and highest share of every network; blank where it was not measured."""
    return [_reach_cell(RESULTS / f"zoo-reach-{side}" / f"{_file(name)}.json") for name in names]


def _reach_cell(path: Path) -> tuple[str, str, str]:
    if not path.exists():
        return "", "", ""
    row = json.loads(path.read_text(encoding="utf-8"))
    if "refused" in row:
        return "", "refused", "refused"
    return str(row["nodes"]), f"{row['in_groups']:.3f}", f"{row['highest']:.3f}"


def _passed(row: Row) -> bool:
    last = row["again"] or row
    return not last["exit_code"] and _sound(last)


def _sound(done: Row) -> bool:
    proven = all(proof["passed"] for proof in done["proofs"].values())
    return bool(proven and done["trains"] and not done["untouched"] and not done["unaligned"])


def _cells(row: Row) -> tuple[str, ...]:
    done = row["again"] or row
    timing = (f"{done['seconds']:.0f}", f"{done['peak_rss_gb']:.2f}")
    asked = f"{row['asked']:g}" + (" refused" if row["exit_code"] else "")
    if done["exit_code"]:
        return (row["network"], asked, f"exit {done['exit_code']}", "", "", "", "", "", *timing)
    closed, onnx = done["proofs"]["closed_gates"], done["proofs"]["onnx"]
    return (
        row["network"] + ("" if _sound(done) else " (!)"),
        asked,
        f"{done['nodes_removed']:.4f}",
        f"{done['weights_removed']:.4f}",
        f"{closed['error_of_spread']:.0e}",
        f"{onnx['error']:.0e}",
        f"{onnx['error_of_spread']:.0e}",
        "yes" if done["trains"] else "NO",
        *timing,
    )


def _their_cell(theirs: Row) -> str:
    if "failed" in theirs:
        return f"fails: {theirs['failed']}"
    untouched = f", {theirs['untouched']} layers untouched" if theirs["untouched"] else ""
    return f"{theirs['nodes_removed']:.3f}{untouched}"


if __name__ == "__main__":
    main()
