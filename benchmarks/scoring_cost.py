"""What a score costs: time and peak memory of every criterion, as multiples of one training step.

    python -m benchmarks.scoring_cost [--network resnet18-cifar resnet50-224] [--repeats 5]
    python -m benchmarks.scoring_cost --whole quickstart resnet50-512 --against FOLDER

A step is forward and backward in training mode on the same batch. Criteria score that batch as one
mini-batch and one chunk, in the same process. Time is the median of interleaved runs, memory the peak of
what the process holds above what it held before, with freed memory handed back first; on the CPU this is
resident memory, sampled every 2 ms. Criteria with an aim are profiled once more, to show what their time is.

``--whole`` takes the default score of a trained network from end to end, as compress takes it, each time in
a process of its own; ``--against`` does so in turns with another checkout of this project, on one thread.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import psutil
import torch
import torchvision
from torch import nn
from torch.nn import functional

from benchmarks.rows import Row, collect, print_table
from structprune.channels import channel_groups
from structprune.scoring.samples import Samples
from structprune.scoring.sampling import Batch
from structprune.scoring.score import Scoring, order, score, score_weights


@dataclass(frozen=True)
class Setting:
    """A network, the side of its images, and how many of them a step takes."""

    build: Callable[[], nn.Module]
    side: int
    batch: int


SETTINGS: Mapping[str, Setting] = {
    "resnet18-cifar": Setting(lambda: _cifar_stem(torchvision.models.resnet18(num_classes=10)), 32, 128),
    "resnet50-224": Setting(lambda: torchvision.models.resnet50(weights=None), 224, 8),
}

CHANNELS = ("snip", "crop", "crop_gradflow", "ntk_sap_redrawn", "ntk_sap_kept", "magnitude", "bn_scale")
WEIGHTS = ("snip", "crop", "grasp", "synflow", "ntk_sap_redrawn")
AIMS = {
    ("resnet18-cifar", "crop"): 2.5,
    ("resnet18-cifar", "ntk_sap_redrawn"): 1.6,
    ("resnet50-224", "crop"): 1.5,
    ("resnet50-224", "ntk_sap_redrawn"): 1.2,
}
"""Multiples of a step that the criteria on channel gates aim at."""


TRAINED = "default score, trained"
"""The key of the fusion that compress takes of a trained network, mini-batches of 4 side by side."""

WHOLE = {"quickstart": 6.0, "resnet50-512": 360.0}
"""Default scores from end to end, and within how many seconds on two cores."""

DEAREST = 6


def _cifar_stem(model: nn.Module) -> nn.Module:
    """The usual ResNet for 32 px: a 3x3 stem of stride 1 and no pooling."""
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def run(name: str, repeats: int) -> Row:
    """Measure a training step and every criterion, in turns."""
    setting = SETTINGS[name]
    torch.manual_seed(0)
    model = setting.build().eval()
    x = torch.randn(setting.batch, 3, setting.side, setting.side)
    y = torch.randint(0, 10, (setting.batch,))
    groups = channel_groups(model, (x[:2],))
    samples = Samples((Batch((x,), y),), functional.cross_entropy)

    def scoring(criterion: str) -> Scoring:
        # Trained, so that no pass for batch-norm statistics is in it.
        return Scoring(
            criterion,
            trained=True,
            accumulate="total",
            draws=1,
            chunk=setting.batch,
            mini_batch=setting.batch,
        )

    work: dict[str, Callable[[], object]] = {"step": lambda: _step(model, x, y)}
    for criterion in CHANNELS:
        work[f"channels {criterion}"] = partial(score, model, groups, samples, scoring(criterion))
    for criterion in WEIGHTS:
        work[f"weights {criterion}"] = partial(score_weights, model, samples, scoring(criterion))
    classes = Samples(samples.batches, samples.loss, classes=True)
    work[TRAINED] = partial(order, model, groups, classes, Scoring(trained=True))
    times, peaks = _in_turns(work, repeats)
    base, held = times["step"], peaks["step"]
    aimed_at = [key for key in work if _aim_of(name, key) is not None]
    return {
        "setting": name,
        "batch": setting.batch,
        "side": setting.side,
        "repeats": repeats,
        "step_seconds": base,
        "step_peak_mb": held,
        "time": {key: found / base for key, found in times.items()},
        "peak": {key: found / held for key, found in peaks.items()},
        "profile": {key: _profile(work[key], base) for key in ("step", *aimed_at)},
    }


def _in_turns(
    work: Mapping[str, Callable[[], object]], repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return median seconds and peak memory in MB of every job, done one after the other, again and again."""
    times: dict[str, list[float]] = {key: [] for key in work}
    peaks: dict[str, list[float]] = {key: [] for key in work}
    for turn in range(repeats + 1):
        for key, job in work.items():
            seconds, peak = _measured(job)
            if turn:  # the first warms up
                times[key].append(seconds)
                peaks[key].append(peak)
    return {key: median(found) for key, found in times.items()}, {
        key: median(found) for key, found in peaks.items()
    }


def _step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    model.train()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    model.load_state_dict(buffers, strict=False)
    model.eval()


def _profile(job: Callable[[], object], base: float) -> dict[str, tuple[int, float]]:
    """Return operation -> (calls, own time as a multiple of a step) of the dearest operations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        job()
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_cpu_time_total)
    return {row.key: (row.count, round(row.self_cpu_time_total / 1e6 / base, 3)) for row in rows[:DEAREST]}


def _measured(job: Callable[[], object]) -> tuple[float, float]:
    """Return seconds, and the peak in MB above what was resident before."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    process = psutil.Process()
    before, done = process.memory_info().rss, threading.Event()
    seen = [before]

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    job()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return seconds, (max(seen) - before) / 1e6


def whole(name: str, repeats: int, network: Path, against: Path | None) -> Row:
    """Take a default score from end to end on two threads, and on one in turns with another checkout."""
    here = Path(__file__).resolve().parents[1]
    ways = {"two threads": (here, 2), "one thread": (here, 1)}
    if against is not None:
        ways["before, one thread"] = (against.resolve(), 1)
    taken: dict[str, list[Row]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, (checkout, threads) in ways.items():
            taken[way].append(_whole(name, network, checkout, threads))
    return {"setting": name, "repeats": repeats, "taken": taken}


def _whole(name: str, network: Path, checkout: Path, threads: int) -> Row:
    script = str(Path(__file__).with_name("whole_score.py"))
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, script, name, "--network", str(network)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def print_whole(rows: Iterable[Row]) -> None:
    """Print what default scores took from end to end."""
    head = ("score", "way", "seconds", "of the processor", "threads", "samples", "peak MB", "aim, s")
    cells = []
    for row in rows:
        for way, taken in row["taken"].items():
            middle = {key: median(one[key] for one in taken) for key in ("seconds", "cpu_seconds", "peak_mb")}
            samples = f"{taken[0]['samples']} of {taken[0]['offered']}"
            times = (f"{middle['seconds']:.1f}", f"{middle['cpu_seconds']:.1f}")
            aim = f"{WHOLE[row['setting']]:.0f}" if way == "two threads" else ""
            about = (str(taken[0]["threads"]), samples, f"{middle['peak_mb']:.0f}", aim)
            cells.append((row["setting"], way, *times, *about))
    print_table(head, cells)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--whole", nargs="*", choices=list(WHOLE))
    parser.add_argument("--weights", type=Path, default=Path("resnet18.pt"), help="the quickstart's network")
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    asked = parser.parse_args()
    if asked.whole is not None:
        names = [f"whole-{name}" for name in asked.whole or WHOLE]
        print_whole(
            collect(
                "scoring_cost",
                names,
                lambda key: whole(key[len("whole-") :], asked.repeats, asked.weights, asked.against),
                again=asked.again,
            )
        )
        return
    rows = collect("scoring_cost", asked.network, lambda name: run(name, asked.repeats), again=asked.again)
    for row in rows:
        print(
            f"\n{row['setting']}, batch {row['batch']}: a step takes {row['step_seconds']:.2f} s, "
            f"{row['step_peak_mb']:.0f} MB"
        )
        cells = (
            (key, f"{row['time'][key]:.2f}", f"{row['peak'][key]:.2f}", _aim(row, key)) for key in row["time"]
        )
        print_table(("", "time / step", "peak / step", "aim"), cells)
        print("\nwhere the time goes: the dearest operations, calls and own time as a multiple of a step")
        for key, found in row["profile"].items():
            listed = ", ".join(f"{name} {count}x {time:.2f}" for name, (count, time) in found.items())
            print(f"{key}: {listed}")


def _aim_of(setting: str, key: str) -> float | None:
    gates, _, criterion = key.partition(" ")
    return AIMS.get((setting, criterion)) if gates == "channels" else None


def _aim(row: Row, key: str) -> str:
    aim = _aim_of(row["setting"], key)
    if aim is None:
        return ""
    return f"{aim} ({'met' if row['time'][key] <= aim else 'not met'})"


if __name__ == "__main__":
    main()
