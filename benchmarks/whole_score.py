"""Seconds of one default score of a trained network, by whichever structprune is first on the path.

    python benchmarks/whole_score.py quickstart | resnet50-512 [--network FILE] [--images N]

``quickstart``: torchvision's resnet18 as ``tools/train_digits.py`` saves it, on 256 digits. ``resnet50-512``:
torchvision's resnet50 at 224 px, trained by declaration, with 512 random images to take from. Prints one
JSON document. It runs as a script, so that ``scoring_cost`` can run it on another checkout.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import time
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

importlib.import_module("moved_names").alias()  # beside this script

from structprune.channels import channel_groups  # noqa: E402
from structprune.data import read_images, scoring_sample, to_batches  # noqa: E402
from structprune.scoring.samples import Samples  # noqa: E402
from structprune.scoring.sampling import Batch, mini_batches_of  # noqa: E402
from structprune.scoring.score import Scoring, order  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def quickstart(network: Path, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Read the trained resnet18, and as many digits as score it."""
    model = torchvision.models.resnet18(num_classes=10)
    model.load_state_dict(torch.load(network, weights_only=True))
    learn = read_images("digits", split="train")
    chosen = learn.take(scoring_sample(learn.labels, least=images, most=images, seed=0))
    batches = list(to_batches(chosen, size=(3, 32, 32), mean=MEAN, std=STD))
    return model, torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def resnet50(_: Path, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Build a resnet50 and draw random images."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None)
    return model, torch.randn(images, 3, 224, 224), torch.randint(0, 1000, (images,))


WHOLE = {"quickstart": (quickstart, 256), "resnet50-512": (resnet50, 512)}


def main() -> None:
    """Score once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=WHOLE)
    parser.add_argument("--network", type=Path, default=Path("resnet18.pt"))
    parser.add_argument("--images", type=int)
    given = parser.parse_args()
    build, images = WHOLE[given.name]
    model, x, y = build(given.network, given.images or images)
    groups = channel_groups(model.eval(), x[:2])
    samples = Samples(mini_batches_of([Batch((x,), y)]), functional.cross_entropy, classes=True)
    start, used = time.perf_counter(), time.process_time()
    scores = order(model, groups, samples, Scoring(trained=True))
    taken = getattr(scores, "taken", None)
    row = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - used,
        "threads": torch.get_num_threads(),
        "offered": len(x),
        "samples": taken.samples if taken else len(x),
        "why": str(taken) if taken else "all of them",
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
