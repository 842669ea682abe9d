"""Accuracy back after a cut: without training, with one epoch of it, and with both.

    python -m benchmarks.recovery [--network resnet20 | resnet32 | resnet44 | digits] [--removed 0.5 ...]

The trained CIFAR-10 ResNets lose a fraction of their blocks' inner channels, which the default score
chooses, or, once it has said how wide blocks stay, the correction itself: at once, in steps with the
correction in between, or at the widths that ``--align auto`` takes. They are mended on 512 images without
labels, a further 128 say whether that helped, and fine-tuned for one epoch on 10,000, with and without the
dense network as a teacher. Top-1 on 5,000 test images. ``digits`` is torchvision's resnet18 as
``tools/train_digits.py`` trains it, whose residual groups are cut too: there fractions are of all nodes,
and top-1 is on the digits' own test images. One JSON a row: a network, a fraction, a seed and what was
done. CIFAR-10 and its weights are no part of this project.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.rows import Row, collect, print_table
from benchmarks.scores import DATA, MEAN, STD, TRAINING_IMAGES, Setting, read
from exporters.profiling.cache import own_profile
from structprune.channels import ChannelGroups, channel_groups
from structprune.data import Batches, ImageSet, read_images, scoring_sample, to_batches
from structprune.hardware import device_layers, picking
from structprune.hardware.profile import this_machine
from structprune.limits.iterative import choose
from structprune.pruning.budget import Budget, Pick, Plan
from structprune.pruning.surgery import shrink
from structprune.reconstruction import (
    FITTED,
    HELD_OUT,
    Reconstruction,
    rechoose,
    reconstruct,
    reconstruction_on,
)
from structprune.scoring.samples import Samples
from structprune.scoring.sampling import Batch, mini_batches_of
from structprune.scoring.score import Scoring
from structprune.training import evaluate, finetune

STEPS = 3
FRACTIONS: Mapping[str, tuple[float, ...]] = {"digits": (0.5, 0.75, 0.89)}
INNER = (0.3, 0.5, 0.75)
TRAINED_EPOCHS = 10


@dataclass(frozen=True)
class Case:
    """A trained network with its images.

    Attributes:
        model: in evaluation mode.
        groups: what can be cut of it.
        train: images that fine-tune for an epoch; of them those that score and mend.
        test: images that judge.
        nodes: how many make the whole of which fractions go.
        labels: of the training images, which balance the scoring images and nothing else.
    """

    model: nn.Module
    groups: ChannelGroups
    train: Batches
    test: Batches
    nodes: int
    labels: np.ndarray[tuple[int], np.dtype[np.int64]]

    def take(self, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
        """Return images by number."""
        return torch.cat([self.train.batch(part)[0] for part in np.array_split(indices, 8)])


def cifar(network: str) -> Case:
    """Read a CIFAR-10 ResNet; of the inner channels of its blocks fractions go."""
    images, test = read("cifar10_train20k.npz"), read("cifar10_test5k.npz")
    batches = [_cifar_batches(x) for x in (images.take(np.arange(TRAINING_IMAGES)), test)]
    model = Setting(network, 0.0, True, images, batches[1]).model(0)
    groups = channel_groups(model, torch.zeros(2, 3, 32, 32))
    labels = images.labels[:TRAINING_IMAGES]
    return Case(model, groups, batches[0], batches[1], sum(group.size for group in groups), labels)


def _cifar_batches(images: ImageSet) -> Batches:
    return to_batches(images, size=(3, 32, 32), mean=MEAN, std=STD)


def digits() -> Case:
    """Train torchvision's resnet18 on digits, or read what was trained before; of all nodes fractions go."""
    from torchvision.models import resnet18

    path = Path(__file__).parents[1] / "build" / "digits-resnet18.pt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        tool = Path(__file__).parents[1] / "tools" / "train_digits.py"
        # Sums in another order make another network, of which a deep cut leaves more or less.
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        words = (str(path), "--epochs", str(TRAINED_EPOCHS))
        subprocess.run([sys.executable, str(tool), *words], check=True, env=one_thread)
    model = resnet18(num_classes=10)
    model.load_state_dict(torch.load(path, weights_only=True))
    train, test = (
        to_batches(read_images("digits", split=split), size=(3, 32, 32), mean=MEAN, std=STD)
        for split in ("train", "test")
    )
    groups = channel_groups(model.eval(), torch.zeros(2, 3, 32, 32))
    return Case(model, groups, train, test, groups.nodes, train.images.labels)


@lru_cache
def case_of(network: str) -> Case:
    """Return a network's case, made once."""
    return digits() if network == "digits" else cifar(network)


# ---- cutting


def samples_of(case: Case, seed: int, count: int) -> Samples:
    """Return scoring images; their labels count for nothing, since the score draws labels of its own."""
    chosen = scoring_sample(case.labels, least=count, most=count, seed=seed)
    labels = torch.from_numpy(case.labels[chosen])
    return Samples(
        mini_batches_of([Batch((case.take(chosen),), labels)]), functional.cross_entropy, classes=True
    )


def correction_of(case: Case, method: str, seed: int) -> Reconstruction:
    """Return how to mend: on images drawn anew for every seed."""
    order = np.random.default_rng(seed).permutation(len(case.train.images))[: FITTED + HELD_OUT]
    return reconstruction_on(method, (case.take(order),), seed, rechooses=True)


@dataclass(frozen=True)
class Cut:
    """A cut network, and how long it took to get there."""

    plan: Plan
    small: nn.Module
    seconds: float


@lru_cache
def at_once(network: str, removed: float, seed: int) -> Cut:
    """Cut in one shot, the channels of the lowest scores."""
    return _cut(network, removed, seed, 1, 1024)


@lru_cache
def rechosen(network: str, removed: float, seed: int) -> Cut:
    """Cut to the same widths, the channels without which layers can be refitted best, as compress does."""
    case, start, raw = case_of(network), time.perf_counter(), at_once(network, removed, seed)
    plan = rechoose(case.model, case.groups, raw.plan, correction_of(case, "least-squares", seed))
    small = shrink(case.model, case.groups, plan).eval()
    return Cut(plan, small, raw.seconds + time.perf_counter() - start)


@lru_cache
def aligned(network: str, removed: float, seed: int) -> Cut:
    """Cut as many nodes at the widths that this machine's ONNX Runtime likes, channels chosen as above."""
    case = case_of(network)
    layers = device_layers(case.model, (case.take(np.arange(2)),), case.groups, own_profile(this_machine()))
    correction = correction_of(case, "least-squares", seed)
    return _cut(network, removed, seed, 1, 1024, correction, picking(layers))


@lru_cache
def in_steps(network: str, removed: float, seed: int) -> Cut:
    """Cut in steps on half as many images, mended in between, channels chosen so in every step."""
    case = case_of(network)
    correction = correction_of(case, "least-squares", seed)
    return _cut(network, removed, seed, STEPS, 512, correction)


def _cut(
    network: str,
    removed: float,
    seed: int,
    steps: int,
    images: int,
    correction: Reconstruction | None = None,
    pick: Pick | None = None,
) -> Cut:
    case, start = case_of(network), time.perf_counter()
    budget = Budget(round(removed * case.nodes) / case.groups.nodes)
    scoring = Scoring(trained=True, steps=steps, seed=seed)
    samples = samples_of(case, seed, images)
    plan = choose(case.model, case.groups, samples, scoring, budget, correction=correction, pick=pick).plan
    small = shrink(case.model, case.groups, plan).eval()
    return Cut(plan, small, time.perf_counter() - start)


# ---- what is done about it


@dataclass(frozen=True)
class Remedy:
    """What is done after a cut.

    Attributes:
        cut: how the network was cut.
        method: the correction, or None.
        epochs: of fine-tuning.
        taught: whether the dense network teaches.
    """

    cut: Callable[[str, float, int], Cut] = at_once
    method: str | None = None
    epochs: int = 0
    taught: bool = False


_WITHOUT_TRAINING: Mapping[str, Remedy] = {
    "cut": Remedy(),
    "batch_norm": Remedy(method="batch-norm"),
    "least_squares": Remedy(method="least-squares"),
    "rechosen": Remedy(rechosen, "least-squares"),
    "steps": Remedy(in_steps, "least-squares"),
    "auto": Remedy(aligned, "least-squares"),
}
REMEDIES: Mapping[str, Remedy] = {
    **_WITHOUT_TRAINING,
    "epoch": Remedy(epochs=1),
    "least_squares+epoch": Remedy(method="least-squares", epochs=1),
    "rechosen+epoch": Remedy(rechosen, "least-squares", 1),
    "steps+epoch": Remedy(in_steps, "least-squares", 1),
    "auto+epoch": Remedy(aligned, "least-squares", 1),
    "epoch_taught": Remedy(epochs=1, taught=True),
    "least_squares+epoch_taught": Remedy(method="least-squares", epochs=1, taught=True),
    "rechosen+epoch_taught": Remedy(rechosen, "least-squares", 1, True),
    "steps+epoch_taught": Remedy(in_steps, "least-squares", 1, True),
}


def run(network: str, removed: float, seed: int, name: str) -> Row:
    """Cut, mend and train as a remedy says."""
    case, remedy = case_of(network), REMEDIES[name]
    cut = remedy.cut(network, removed, seed)
    start = time.perf_counter()
    small, note = copy.deepcopy(cut.small), None
    if remedy.method is not None:
        correction = correction_of(case, remedy.method, seed)
        mended = reconstruct(case.model, small, case.groups, cut.plan, correction)
        small, note = mended.model, mended.note
    mending = time.perf_counter() - start
    if remedy.epochs:
        finetune(small, case.train, remedy.epochs, seed=seed, teacher=case.model if remedy.taught else None)
    return {
        "network": network,
        "removed": removed,
        "seed": seed,
        "remedy": name,
        "top1": evaluate(small, case.test),
        "dense": _dense(network),
        "note": note,
        "cut_seconds": round(cut.seconds, 1),
        "mending_seconds": round(mending, 1),
        "training_seconds": round(time.perf_counter() - start - mending, 1) if remedy.epochs else 0.0,
    }


@lru_cache
def _dense(network: str) -> float:
    return evaluate(case_of(network).model, case_of(network).test)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks = ("resnet20", "resnet32", "resnet44", "digits")
    parser.add_argument("--network", default="resnet20", choices=networks)
    parser.add_argument(
        "--removed", type=float, nargs="+", help="default: 0.3 0.5 0.75; digits 0.5 0.75 0.89"
    )
    parser.add_argument("--only", nargs="+", default=list(REMEDIES), metavar="NAME", choices=list(REMEDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    if not DATA.is_dir() and asked.network != "digits":
        raise SystemExit(f"this benchmark needs the CIFAR-10 files in {DATA.name}, which are not there")
    fractions = asked.removed or FRACTIONS.get(asked.network, INNER)
    rows: list[Row] = []
    for seed in asked.seeds:
        for removed in fractions:
            rows += _rows(asked, removed, seed)
    print_table(
        ("remedy", *(f"{100 * f:g} %" for f in fractions), "seconds without training"),
        (_cells(name, rows, fractions) for name in asked.only),
    )


def _rows(asked: argparse.Namespace, removed: float, seed: int) -> Iterable[Row]:
    keys = {f"{removed:g}-seed{seed}-{name}": name for name in asked.only}

    def one(key: str) -> Row:
        return run(asked.network, removed, seed, keys[key])

    return collect(f"recovery/{asked.network}", keys, one, again=asked.again)


def _cells(name: str, rows: Sequence[Row], fractions: Sequence[float]) -> tuple[str, ...]:
    own = [row for row in rows if row["remedy"] == name]
    seconds = mean(row["cut_seconds"] + row["mending_seconds"] for row in own)
    return (
        name,
        *(_top1([r["top1"] for r in own if r["removed"] == f]) for f in fractions),
        f"{seconds:.0f}",
    )


def _top1(found: Sequence[float]) -> str:
    spread = f" +- {stdev(found):.3f}" if len(found) > 1 else ""
    return f"{mean(found):.3f}{spread}"


if __name__ == "__main__":
    main()
