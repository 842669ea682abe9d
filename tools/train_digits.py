"""Train torchvision's resnet18 for some seconds on scikit-learn's digits and save its state dict.

The images that accuracy is later reported on, ``read_images("digits", split="test")``, are never trained on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torchvision.models import resnet18

from structprune.data import read_images, to_batches
from structprune.training import Recipe, evaluate, finetune

SIZE = (3, 32, 32)
# ImageNet's, which the compression of a torchvision network uses too unless it is told otherwise.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def main() -> None:
    arguments = parsed()
    torch.manual_seed(arguments.seed)
    model = resnet18(num_classes=10)
    train, test = (
        to_batches(read_images("digits", split=split), size=SIZE, mean=MEAN, std=STD, batch_size=64)
        for split in ("train", "test")
    )
    start = time.perf_counter()
    finetune(model, train, arguments.epochs, recipe=Recipe(lr=arguments.lr), seed=arguments.seed)
    seconds = time.perf_counter() - start
    torch.save(model.state_dict(), arguments.output)
    print(
        f"resnet18: {arguments.epochs} epochs on {len(train.images)} digits in {seconds:.0f} s; "
        f"top-1 {evaluate(model, test):.1%} on the other {len(test.images)}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="file for the state dict")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
