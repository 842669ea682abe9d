"""Which scores keep accuracy: the same cut by every criterion, and by torch-pruning's own pruner.

    python -m benchmarks.scores [--network resnet20] [--removed 0.75] [--untrained] [--only NAME ...]
                               [--seeds 3] [--first-seed 0]

CIFAR-10 ResNets whose residual stream can't be cut (zero-padding shortcuts): a fraction of the inner
channels of all blocks goes. Trained networks are scored on 1,024 training images and fine-tuned for one
epoch on 10,000; untrained ones are drawn anew for every seed, cut and trained for five epochs. Top-1 on
5,000 test images. One JSON a row, of all seeds. The images and weights are no part of this project.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.rows import Row, collect, print_table
from structprune.channels import ChannelGroups, channel_groups
from structprune.data import Batches, ImageSet, scoring_sample, to_batches
from structprune.limits.iterative import choose
from structprune.models.definitions import MODELS
from structprune.pruning.budget import Budget
from structprune.pruning.surgery import shrink
from structprune.scoring.criteria import DEFAULT
from structprune.scoring.samples import Samples
from structprune.scoring.sampling import Batch, mini_batches_of
from structprune.scoring.score import Scoring
from structprune.training import Recipe, evaluate, finetune

DATA = Path(__file__).parents[2] / "shared" / "data"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCORING_IMAGES = 1024
TRAINING_IMAGES = 10_000
UNTRAINED_EPOCHS = 5
BATCH = 128


@dataclass(frozen=True)
class Contender:
    """One row: a criterion with how it is taken, or an importance of torch-pruning."""

    score: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    importance: str = ""


def _ours(score: str, **options: Any) -> Contender:
    plain = {"mini_batch": 16, "labels": "given", "allocation": "global", "widths": "all"}
    return Contender(score, {**plain, **options})


CONTENDERS: Mapping[str, Contender] = {
    "default": Contender(DEFAULT),
    "random": _ours("random"),
    "filter_norms": _ours("magnitude"),
    "snip_total": _ours("snip", accumulate="total"),
    "snip_square_128": _ours("snip", accumulate="square", mini_batch=128),
    "snip_square_2": _ours("snip", accumulate="square", mini_batch=2),
    "crop_total": _ours("crop", accumulate="total"),
    "crop_gradflow_total": _ours("crop_gradflow", accumulate="total"),
    "crop_abs_16": _ours("crop", accumulate="abs"),
    "crop_abs_4": _ours("crop", accumulate="abs", mini_batch=4),
    "crop_abs_16_drawn": _ours("crop", accumulate="abs", labels="drawn"),
    "crop_abs_4_drawn": _ours("crop", accumulate="abs", labels="drawn", mini_batch=4),
    "crop_square_4_drawn": _ours("crop", accumulate="square", labels="drawn", mini_batch=4),
    "ntk_sap_kept": _ours("ntk_sap_kept"),
    "ntk_sap_redrawn": _ours("ntk_sap_redrawn"),
    "ntk_sap+crop_total": _ours("ntk_sap+crop", accumulate="total"),
    "ntk_sap+crop_abs_16": _ours("ntk_sap+crop", accumulate="abs"),
    "ntk_sap+crop_abs_4_drawn": _ours("ntk_sap+crop", accumulate="abs", labels="drawn", mini_batch=4),
    "crop_abs_4_drawn_conserved": _ours(
        "crop", accumulate="abs", labels="drawn", mini_batch=4, allocation="conserved"
    ),
    "ntk_sap+crop_abs_16_drawn": _ours("ntk_sap+crop", accumulate="abs", labels="drawn"),
    "ntk_sap+crop_abs_4_drawn_steps_4": _ours(
        "ntk_sap+crop", accumulate="abs", labels="drawn", mini_batch=4, steps=4
    ),
    "tp_magnitude": Contender(importance="magnitude"),
    "tp_taylor": Contender(importance="taylor"),
    "tp_hessian": Contender(importance="hessian"),
    "tp_hessian_repaired": Contender(importance="hessian_repaired"),
    "tp_lamp": Contender(importance="lamp"),
}


@dataclass(frozen=True)
class Setting:
    """What is cut, and what it is trained and judged on."""

    network: str
    removed: float
    trained: bool
    images: ImageSet
    test: Batches

    def model(self, seed: int) -> nn.Module:
        """Return the network, from its file or drawn anew."""
        torch.manual_seed(seed)
        model = MODELS[f"cifar_{self.network}"]()
        if self.trained:
            model.load_state_dict(load_file(DATA / f"cifar10_{self.network}.safetensors"))
        return model.eval()

    def samples(self, seed: int) -> Samples:
        """Return the scoring images, balanced over the classes."""
        chosen = scoring_sample(self.images.labels, least=SCORING_IMAGES, most=SCORING_IMAGES, seed=seed)
        pairs = [Batch((x,), y) for x, y in _batches(self.images.take(chosen))]
        return Samples(mini_batches_of(pairs), functional.cross_entropy, classes=True)


def _batches(images: ImageSet) -> Batches:
    return to_batches(images, size=(3, 32, 32), mean=MEAN, std=STD, batch_size=BATCH)


def run(setting: Setting, contender: Contender, seeds: range) -> Row:
    """Cut and train once a seed."""
    rows = [_one(setting, contender, seed) for seed in seeds]
    return {
        "network": setting.network,
        "trained": setting.trained,
        "removed": setting.removed,
        "seeds": len(seeds),
        "rows": rows,
        "top1": mean(row["top1"] for row in rows),
        "deviation": stdev(row["top1"] for row in rows) if len(seeds) > 1 else None,
    }


def _one(setting: Setting, contender: Contender, seed: int) -> dict[str, Any]:
    model = setting.model(seed)
    groups = channel_groups(model, torch.zeros(2, 3, 32, 32))
    inner = sum(group.size for group in groups)
    gone = round(setting.removed * inner)
    start = time.perf_counter()
    cut = _cut_by_torch_pruning if contender.importance else _cut_by_us
    small = cut(model, groups, gone, setting, contender, seed)
    seconds = time.perf_counter() - start
    widths = [m.out_channels for name, m in small.named_modules() if name.endswith(".conv1")]
    found = {"seed": seed, "widths": widths, "gone": inner - sum(widths), "asked": gone}
    found["cut"] = evaluate(small, setting.test)
    train = _batches(setting.images.take(np.arange(TRAINING_IMAGES)))
    if setting.trained:
        finetune(small, train, 1, seed=seed)
    else:
        finetune(small, train, UNTRAINED_EPOCHS, recipe=Recipe(lr=0.1), seed=seed)
    found["top1"] = evaluate(small, setting.test)
    return {**found, "scoring_seconds": round(seconds, 1)}


def _cut_by_us(
    model: nn.Module, groups: ChannelGroups, gone: int, setting: Setting, contender: Contender, seed: int
) -> nn.Module:
    scoring = Scoring(contender.score, trained=setting.trained, seed=seed)
    scoring = replace(scoring, **contender.options)
    budget = Budget(gone / groups.nodes)
    plan = choose(model, groups, setting.samples(seed), scoring, budget).plan
    return shrink(model, groups, plan).eval()


# ---- torch-pruning's own pruner


def _cut_by_torch_pruning(
    model: nn.Module, groups: ChannelGroups, gone: int, setting: Setting, contender: Contender, seed: int
) -> nn.Module:
    """Ask it for a little more until it removes what was asked; it drops groups that would vanish."""
    inner = sum(group.size for group in groups)
    samples = setting.samples(seed)
    for more in range(inner - gone):
        small = _pruned(model, groups, (gone + more) / inner, contender.importance, samples)
        left = sum(layer.out_channels for name, layer in small.named_modules() if name.endswith(".conv1"))
        # conv1 of the stem is named without a dot and is never cut
        if inner - left >= gone:
            return small.eval()
    raise RuntimeError(f"torch-pruning never removes {gone} of {inner} channels")


def _pruned(model: nn.Module, groups: ChannelGroups, ratio: float, name: str, samples: Samples) -> nn.Module:
    import torch_pruning as tp

    small = copy.deepcopy(model)
    importance = IMPORTANCES[name](small, samples)
    inner = {producer.layer for group in groups for producer in group.producers}
    ignored = [
        m for n, m in small.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and n not in inner
    ]
    tp.pruner.BasePruner(
        small,
        torch.zeros(2, 3, 32, 32),
        importance=importance,
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=ignored,
        # the defaults are shared between calls
        pruning_ratio_dict={},
        unwrapped_parameters=[],
        customized_pruners={},
    ).step()
    small.zero_grad()
    return small


def _magnitude(model: nn.Module, samples: Samples) -> Any:
    import torch_pruning as tp

    return tp.importance.GroupMagnitudeImportance(p=2)


def _lamp(model: nn.Module, samples: Samples) -> Any:
    import torch_pruning as tp

    return tp.importance.LAMPImportance(p=2)


def _taylor(model: nn.Module, samples: Samples) -> Any:
    import torch_pruning as tp

    for batch in samples.batches:
        loss = functional.cross_entropy(model(*batch.inputs), batch.target) / len(samples.batches)
        loss.backward()  # type: ignore[no-untyped-call]
    return tp.importance.GroupTaylorImportance()


def _hessian(model: nn.Module, samples: Samples) -> Any:
    """As shipped in 1.6.1: its sum over samples starts anew with each, so that the last one stays."""
    import torch_pruning as tp

    importance = tp.importance.GroupHessianImportance()
    for x, y in _one_by_one(model, samples):
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        importance.accumulate_grad(model)
    return importance


def _hessian_repaired(model: nn.Module, samples: Samples) -> Any:
    """As documented: the squares of every sample's gradient, summed."""
    import torch_pruning as tp

    importance = tp.importance.GroupHessianImportance()
    sums: dict[nn.Parameter, Tensor] = {p: torch.zeros_like(p) for p in model.parameters()}
    for x, y in _one_by_one(model, samples):
        model.zero_grad()
        functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        for p in sums:
            assert p.grad is not None
            sums[p] += p.grad.square()
    importance._accu_grad = sums
    importance._counter = dict.fromkeys(sums, 1)
    return importance


def _one_by_one(model: nn.Module, samples: Samples) -> Any:
    """Yield single samples with a label drawn from the prediction, as in torch-pruning's own benchmark."""
    generator = torch.Generator().manual_seed(0)
    for batch in samples.batches:
        with torch.no_grad():
            shares = model(*batch.inputs).softmax(1)
        drawn = torch.multinomial(shares, 1, generator=generator)
        yield from zip(torch.split(batch.inputs[0], 1), torch.split(drawn.flatten(), 1), strict=True)


IMPORTANCES: Mapping[str, Callable[[nn.Module, Samples], Any]] = {
    "magnitude": _magnitude,
    "taylor": _taylor,
    "hessian": _hessian,
    "hessian_repaired": _hessian_repaired,
    "lamp": _lamp,
}


def read(name: str) -> ImageSet:
    """Decode one of the CIFAR-10 files."""
    with np.load(DATA / name) as found:
        p = found["resid"].cumsum(-1, dtype="u1").cumsum(-2, dtype="u1")
        labels, classes = found["labels"].astype(np.int64), tuple(map(str, found["classes"]))
    rgb = np.stack([p[1] + p[0], p[0], p[2] + p[0]], -1)
    return ImageSet(rgb, labels, classes, "CIFAR-10")


def main() -> None:
    """Run the benchmark and print its table, best first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="resnet20", choices=("resnet20", "resnet32", "resnet44"))
    parser.add_argument("--removed", type=float, default=0.75)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"this benchmark needs the CIFAR-10 files in {DATA.name}, which are not there")
    images, test = read("cifar10_train20k.npz"), _batches(read("cifar10_test5k.npz"))
    setting = Setting(asked.network, asked.removed, not asked.untrained, images, test)
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    folder = f"scores/{asked.network}{'-untrained' if asked.untrained else ''}-{asked.removed:g}"
    folder += f"-from-seed-{seeds.start}" if seeds.start else ""
    rows = collect(folder, asked.only, lambda name: run(setting, CONTENDERS[name], seeds), again=asked.again)
    ranked = sorted(rows, key=lambda row: -row["top1"])
    print_table(("score", "after the cut", "top-1", "+-", "scoring s"), map(_cells, ranked))


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row["key"],
        f"{mean(one['cut'] for one in row['rows']):.3f}",
        f"{row['top1']:.3f}",
        f"{row['deviation']:.3f}" if row["deviation"] is not None else "",
        f"{mean(one['scoring_seconds'] for one in row['rows']):.0f}",
    )


if __name__ == "__main__":
    main()
