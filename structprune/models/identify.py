"""Which network a state dict belongs to, from its keys and shapes alone."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from structprune.errors import InputError
from structprune.files import shown
from structprune.models.architecture import LARGEST_ARGUMENT, Architecture, JSONValue, build_on_meta
from structprune.models.zoo import AUXILIARY

Shapes = Mapping[str, tuple[int, ...]]

# The last layer's name in torchvision's classifiers and in ours.
HEAD = re.compile(r"(fc|linear|classifier|heads?)(\.\w+)*\.weight")
COUNTER = "num_batches_tracked"
NEAREST = 4
SLACK = 0.004
"""How far off the published number of parameters may be: tables of positions count in a file only."""

FIRST_LAYERS = {"googlenet": "conv1.conv.weight", "inception_v3": "Conv2d_1a_3x3.conv.weight"}
"""Of torchvision's networks with auxiliary heads."""


@dataclass(frozen=True)
class Mismatch:
    """Where a network and a state dict part.

    Attributes:
        count: how many tensors do not fit.
        first: the first of them, in words.
        fitting: how many do.
    """

    count: int
    first: str
    fitting: int = 0


@dataclass(frozen=True)
class Nearest:
    """The network that most of a state dict fits.

    Attributes:
        architecture: what builds it.
        difference: where the two part.
    """

    architecture: Architecture
    difference: Mismatch


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Name -> shape of every tensor but the counters of batch norms, which some files lack."""
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(COUNTER)}


def mismatch(model: nn.Module, shapes: Shapes) -> Mismatch | None:
    """Compare a network with a file, name by name, in the network's order.

    Returns:
        None where names and shapes are the same.
    """
    return difference(shapes_of(model.state_dict()), shapes)


def difference(expected: Shapes, shapes: Shapes) -> Mismatch | None:
    """Compare the shapes of a network with those of a file, as :func:`mismatch` does."""
    fitting = sum(shapes.get(name) == shape for name, shape in expected.items())
    missing = [name for name in expected if name not in shapes]
    wrong = [name for name, shape in expected.items() if name in shapes and shapes[name] != shape]
    extra = len(shapes) - fitting - len(wrong)
    if not missing and not wrong and not extra:
        return None
    if wrong:
        first = f"{shown(wrong[0])} is {list(shapes[wrong[0]])}, the network has {list(expected[wrong[0]])}"
    elif missing:
        first = f"{shown(missing[0])} {list(expected[missing[0]])} is missing"
    else:
        name = next(name for name in shapes if name not in expected)
        first = f"{shown(name)} {list(shapes[name])} is not in the network"
    return Mismatch(len(wrong) + len(missing) + extra, first, fitting)


def identify(shapes: Shapes) -> Architecture | None:
    """Find the network with exactly these names and shapes: ours first, then torchvision's classifiers.

    Args:
        shapes: name -> shape, as :func:`shapes_of` gives them.

    Returns:
        None where there is none.
    """
    for architecture in _candidates(shapes, SLACK):
        known = _shapes_known(architecture)
        if known is not None and difference(known, shapes) is None:
            return architecture
    return None


def nearest(shapes: Shapes) -> Nearest:
    """Find the network that most of the names and shapes fit, among those of about as many parameters."""
    rows = [
        Nearest(architecture, parted)
        for architecture in _candidates(shapes, math.inf)
        if (known := _shapes_known(architecture)) is not None
        if (parted := difference(known, shapes)) is not None
    ]
    return max(rows, key=lambda row: (row.difference.fitting, -row.difference.count))


def _shapes_known(architecture: Architecture) -> Shapes | None:
    """Shapes of a network, or None where a head in the file is larger than any may be."""
    arguments = tuple((key, _frozen(value)) for key, value in architecture.arguments.items())
    return _shapes_built(architecture.source, arguments)


@functools.lru_cache(maxsize=64)
def _shapes_built(source: str, arguments: tuple[tuple[str, Any], ...]) -> Shapes | None:
    try:
        return shapes_of(build_on_meta(Architecture(source, dict(arguments))).state_dict())
    except InputError:
        return None


def _frozen(value: JSONValue) -> JSONValue:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def num_classes(shapes: Shapes) -> int | None:
    """Outputs of the last layer, or None where no layer looks like one."""
    head = _head(shapes)
    return shapes[head][0] if head else None


def _head(shapes: Shapes) -> str | None:
    heads = [name for name, shape in shapes.items() if len(shape) >= 2 and HEAD.fullmatch(name)]
    return max(heads, key=_natural, default=None)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort ``classifier.10`` behind ``classifier.9``; only 0 to 9 are digits, however many there are."""
    return [_sortable(part) for part in name.split(".")]


def _sortable(part: str) -> tuple[int, str]:
    if not (part.isascii() and part.isdigit()):
        return -1, part
    number = part.lstrip("0")
    return len(number), number


def _candidates(shapes: Shapes, slack: float) -> Iterator[Architecture]:
    classes = min(num_classes(shapes) or 1000, LARGEST_ARGUMENT)
    yield from _own(shapes, classes)
    for name in _torchvision_by_size(shapes, classes, slack):
        yield Architecture(f"torchvision:{name}", {"num_classes": classes})
        if name in AUXILIARY:
            yield Architecture(f"torchvision:{name}", {"num_classes": classes, "aux_logits": False})


def _own(shapes: Shapes, classes: int) -> Iterator[Architecture]:
    weights = [shape for name, shape in shapes.items() if re.fullmatch(r"[0-9]+\.weight", name)]
    if weights and len(weights) * 2 == len(shapes) and all(len(shape) == 2 for shape in weights):
        ordered = sorted((name for name in shapes if name.endswith(".weight")), key=_natural)
        widths = [shapes[name][0] for name in ordered]
        yield Architecture(
            "structprune:mlp",
            {"num_classes": widths[-1], "input_shape": [shapes[ordered[0]][1]], "hidden": widths[:-1]},
        )
    if "linear.weight" in shapes:
        blocks = sum(bool(re.fullmatch(r"layer1\.[0-9]+\.conv1\.weight", name)) for name in shapes)
        shortcut = "projection" if any("shortcut" in name for name in shapes) else "pad"
        if (depth := 6 * blocks + 2) in (20, 32, 44, 56):
            arguments: dict[str, JSONValue] = {"num_classes": classes, "shortcut": shortcut}
            yield Architecture(f"structprune:cifar_resnet{depth}", arguments)
    if shapes.get("features.0.weight") == (64, 3, 3, 3):
        yield Architecture("structprune:earlycrop_vgg16", {"num_classes": classes})


def _torchvision_by_size(shapes: Shapes, classes: int, slack: float) -> list[str]:
    """Torchvision's classifiers, those with the right number of parameters first; building all takes long.

    Published counts are for 1,000 classes, and only the last layer depends on them. Those of the two networks
    with auxiliary heads leave the heads out, so these are told by their first layers.

    Args:
        shapes: of the file.
        classes: outputs of its last layer.
        slack: how far off a count may be, of the published one.
    """
    head = _head(shapes)
    per_class = math.prod(shapes[head][1:]) + 1 if head else 0
    entries = sum(math.prod(shape) for name, shape in shapes.items() if not _is_statistic(name))
    predicted = entries + (1000 - classes) * per_class
    counts = _published_counts()
    near = [name for name, count in counts.items() if abs(count - predicted) <= slack * count]
    by_distance = sorted(near, key=lambda name: (abs(counts[name] - predicted), name))
    alike = [name for name, layer in FIRST_LAYERS.items() if layer in shapes]
    return list(dict.fromkeys((*alike, *by_distance[:NEAREST])))


@functools.cache
def _published_counts() -> Mapping[str, int]:
    from torchvision import models

    return {
        name: models.get_model_weights(name).DEFAULT.meta["num_params"]
        for name in models.list_models(module=models)
    }


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "relative_position_index"))
