"""Which network a state dict belongs to, from its keys and shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from structprune.errors import InputError
from structprune.sources.architecture import Architecture, JSONValue, build_on_meta
from structprune.sources.zoo import AUXILIARY

Shapes = Mapping[str, tuple[int, ...]]

# The last layer's name in torchvision's classifiers and in ours.
HEAD = re.compile(r"(fc|linear|classifier|heads?)(\.\w+)*\.weight")
COUNTER = "num_batches_tracked"
NEAREST = 4


@dataclass(frozen=True)
class Mismatch:
    """Where a network and a state dict part.

    Attributes:
        count: how many tensors do not fit.
        first: the first of them, in words.
    """

    count: int
    first: str


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Name -> shape of every tensor but the counters of batch norms, which some files lack."""
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(COUNTER)}


def mismatch(model: nn.Module, shapes: Shapes) -> Mismatch | None:
    """Compare a network with a file, name by name, in the network's order.

    Returns:
        None where names and shapes are the same.
    """
    expected = shapes_of(model.state_dict())
    missing = [f"{name} {list(expected[name])} is missing" for name in expected if name not in shapes]
    wrong = [
        f"{name} is {list(shapes[name])}, the network has {list(expected[name])}"
        for name in expected
        if name in shapes and shapes[name] != expected[name]
    ]
    extra = [f"{name} {list(shapes[name])} is not in the network" for name in shapes if name not in expected]
    differences = wrong + missing + extra
    return Mismatch(len(differences), differences[0]) if differences else None


def identify(shapes: Shapes) -> Architecture:
    """Find the network with exactly these names and shapes: ours first, then torchvision's classifiers.

    Args:
        shapes: name -> shape, as :func:`shapes_of` gives them.

    Raises:
        InputError: none fits; the message names the nearest and where they part.
    """
    nearest: tuple[int, Architecture, Mismatch] | None = None
    for architecture in _candidates(shapes):
        difference = mismatch(build_on_meta(architecture), shapes)
        if difference is None:
            return architecture
        if nearest is None or difference.count < nearest[0]:
            nearest = (difference.count, architecture, difference)
    assert nearest is not None
    _, architecture, difference = nearest
    raise InputError(
        f"the state dict of {len(shapes)} tensors fits no known network;"
        f" the nearest is {architecture.source}, where {difference.count} differ,"
        f" first: {difference.first}; name yours with --arch"
    )


def num_classes(shapes: Shapes) -> int | None:
    """Outputs of the last layer, or None where no layer looks like one."""
    head = _head(shapes)
    return shapes[head][0] if head else None


def _head(shapes: Shapes) -> str | None:
    heads = [name for name, shape in shapes.items() if len(shape) >= 2 and HEAD.fullmatch(name)]
    return max(heads, key=_natural, default=None)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort ``classifier.10`` behind ``classifier.9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _candidates(shapes: Shapes) -> Iterator[Architecture]:
    classes = num_classes(shapes) or 1000
    yield from _own(shapes, classes)
    for name in _torchvision_by_size(shapes, classes):
        yield Architecture(f"torchvision:{name}", {"num_classes": classes})
        if name in AUXILIARY:
            yield Architecture(f"torchvision:{name}", {"num_classes": classes, "aux_logits": False})


def _own(shapes: Shapes, classes: int) -> Iterator[Architecture]:
    weights = [shape for name, shape in shapes.items() if re.fullmatch(r"\d+\.weight", name)]
    if weights and len(weights) * 2 == len(shapes) and all(len(shape) == 2 for shape in weights):
        ordered = sorted((name for name in shapes if name.endswith(".weight")), key=_natural)
        widths = [shapes[name][0] for name in ordered]
        yield Architecture(
            "structprune:mlp",
            {"num_classes": widths[-1], "input_shape": [shapes[ordered[0]][1]], "hidden": widths[:-1]},
        )
    if "linear.weight" in shapes:
        blocks = sum(bool(re.fullmatch(r"layer1\.\d+\.conv1\.weight", name)) for name in shapes)
        shortcut = "projection" if any("shortcut" in name for name in shapes) else "pad"
        if (depth := 6 * blocks + 2) in (20, 32, 44, 56):
            arguments: dict[str, JSONValue] = {"num_classes": classes, "shortcut": shortcut}
            yield Architecture(f"structprune:cifar_resnet{depth}", arguments)
    if shapes.get("features.0.weight") == (64, 3, 3, 3):
        yield Architecture("structprune:earlycrop_vgg16", {"num_classes": classes})


def _torchvision_by_size(shapes: Shapes, classes: int) -> list[str]:
    """Torchvision's classifiers, those with the right number of parameters first; building all takes long.

    Published counts are for 1,000 classes, and only the last layer depends on them. Those of the two networks
    with auxiliary heads leave the heads out, so the two are always tried.
    """
    from torchvision import models

    head = _head(shapes)
    per_class = math.prod(shapes[head][1:]) + 1 if head else 0
    entries = sum(math.prod(shape) for name, shape in shapes.items() if not _is_statistic(name))
    predicted = entries + (1000 - classes) * per_class
    counts = {
        name: models.get_model_weights(name).DEFAULT.meta["num_params"]
        for name in models.list_models(module=models)
    }
    by_distance = sorted(counts, key=lambda name: (abs(counts[name] - predicted), name))
    return [name for i, name in enumerate(by_distance) if i < NEAREST or name in AUXILIARY]


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "relative_position_index"))
