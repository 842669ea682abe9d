"""Traps for ``python -m benchmarks.fuzz``: what a cut may get wrong where nobody looks.

Every trap is a stage: it takes the features so far and the network's input, and returns features of the same
shape. Most are asleep on ordinary inputs in evaluation mode; what wakes them is in the name: another arm of
the forward pass, a scale that starts at zero, a tail that only strong activations reach, a memory of earlier
calls. What they then do to the channels is one of ``EFFECTS``, of which some don't mind a cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

AXES: Mapping[str, int] = {"image": -3, "sequence": -1, "vector": -1}
"""Kind of network -> the dimension of channels, counted from the end, since a batch may be missing."""
SIZES: Mapping[str, int] = {"image": 8, "sequence": 6, "vector": 1}
"""Kind of network -> pixels a side, or steps, of the example."""
FEATURES: Mapping[str, int] = {"image": 3, "sequence": 6, "vector": 10}
"""Kind of network -> channels of its input."""


class Stage(nn.Module):
    """A part of a network, whose ``words`` say in the grammar what it is."""

    words = ""

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return features made of features, knowing the network's input."""
        raise NotImplementedError


# What is done to channels: (stage, features, their dimension) -> features.
Effect = Callable[[Any, Tensor, int], Tensor]


def _along(values_C: Tensor, h: Tensor, axis: int) -> Tensor:
    return values_C.to(h).reshape(-1, *(1,) * (-1 - axis))


def _ramp(_: Any, h: Tensor, axis: int) -> Tensor:
    return h * _along(torch.linspace(0.5, 1.5, h.shape[axis]), h, axis)


def _normalised(_: Any, h: Tensor, axis: int) -> Tensor:
    moved = h.movedim(axis, -1)
    return functional.layer_norm(moved, moved.shape[-1:]).movedim(-1, axis)


def _paired(_: Any, h: Tensor, axis: int) -> Tensor:
    return h + torch.cat([h.narrow(axis, 1, h.shape[axis] - 1), h.narrow(axis, 0, 1)], axis)


MIXING: Mapping[str, Effect] = {
    "centre": lambda _, h, axis: h - h.mean(axis, keepdim=True),
    "width": lambda _, h, axis: 16 * h / h.shape[axis],
    "root": lambda _, h, axis: h * h.shape[axis] ** -0.5,
    "softmax": lambda _, h, axis: h + h.softmax(axis),
    "flip": lambda _, h, axis: h.flip(axis),
    "roll": lambda _, h, axis: h.roll(1, axis),
    "unit": lambda _, h, axis: functional.normalize(h, dim=axis),
    "sum": lambda _, h, axis: h + 0.1 * h.sum(axis, keepdim=True),
    "cumsum": lambda _, h, axis: h.cumsum(axis),
    "top": lambda _, h, axis: h - h.amax(axis, keepdim=True),
    "std": lambda _, h, axis: h / (h.std(axis, keepdim=True) + 1e-3),
    "ramp": _ramp,
    "normalise": _normalised,
    "pair": _paired,
}
"""Effects that a cut of the channels changes."""
HARMLESS: Mapping[str, Effect] = {
    "double": lambda _, h, axis: 2 * h,
    "tanh": lambda _, h, axis: h.tanh(),
    "negate": lambda _, h, axis: -h,
    "shift": lambda _, h, axis: h + 1,
    "clamp": lambda _, h, axis: h.clamp(-20, 20),
}
"""Effects on each entry, which a cut leaves alone."""
# Of a stage with layers a, which writes what is changed, and b, which reads it.
OF_LAYERS: Mapping[str, Effect] = {
    "len": lambda stage, h, _: h * len(stage.a.weight) ** -0.5,
    "inputs": lambda stage, h, _: 16 * h / stage.b.weight.shape[1],
    "weights": lambda stage, h, _: h / stage.b.weight.norm(),
    "size": lambda stage, h, _: h * 8 / stage.a.weight.numel() ** 0.5,
}
EFFECTS: Mapping[str, Effect] = {**MIXING, **HARMLESS, **OF_LAYERS}


def _extent(stage: Any, x: Tensor) -> int:
    return x.shape[-2 if stage.kind == "sequence" else -1]


def _is_batched(stage: Any, x: Tensor) -> bool:
    return x.ndim == (4 if stage.kind == "image" else 3 if stage.kind == "sequence" else 2)


# When another arm is taken: (stage, features, input) -> whether.
Condition = Callable[[Any, Tensor, Tensor], bool]

OF_SHAPES: Mapping[str, Condition] = {
    "larger": lambda s, h, x: _extent(s, x) > SIZES[s.kind],
    "much_larger": lambda s, h, x: _extent(s, x) > 4 * SIZES[s.kind] // 3,
    "smaller": lambda s, h, x: _extent(s, x) < SIZES[s.kind],
    "odd": lambda s, h, x: _extent(s, x) % 2 == 1,
    "oblong": lambda s, h, x: s.kind == "image" and x.shape[-1] != x.shape[-2],
    "features_larger": lambda s, h, x: s.kind != "vector" and _extent(s, h) > SIZES[s.kind],
}
OF_BATCHES: Mapping[str, Condition] = {
    "batch_above_8": lambda s, h, x: len(x) > 8,
    "batch_above_16": lambda s, h, x: x.shape[0] > 16,
    "batch_above_32": lambda s, h, x: x.size(0) > 32,
    "alone": lambda s, h, x: len(x) == 1,
    "two": lambda s, h, x: x.shape[0] == 2,
    "many_numbers": lambda s, h, x: x.numel() > 10 * x[0].numel(),
    "many_features": lambda s, h, x: h.numel() > 18 * s.width * h[0].numel() / h.shape[AXES[s.kind]],
    "unbatched": lambda s, h, x: not _is_batched(s, x),
}
OF_MODES: Mapping[str, Condition] = {
    "training": lambda s, h, x: s.training,
    "grad": lambda s, h, x: torch.is_grad_enabled(),
    "no_grad": lambda s, h, x: not torch.is_grad_enabled(),
    "requires_grad": lambda s, h, x: h.requires_grad,
    "float32": lambda s, h, x: h.dtype == torch.float32,
    "float64": lambda s, h, x: x.dtype == torch.float64,
}
OF_INPUTS: Mapping[str, Condition] = {
    "bright": lambda s, h, x: bool(x.abs().max() > 8),
    "very_bright": lambda s, h, x: x.max().item() > 60,
    "dark": lambda s, h, x: float(x.abs().max()) < 1,
    "positive": lambda s, h, x: bool((x >= 0).all()),
    "negative": lambda s, h, x: bool(x.max() <= 0),
    "mean_above": lambda s, h, x: bool(x.mean() > 0.5),
    "wide_spread": lambda s, h, x: float(x.std()) > 3,
}
OF_FEATURES: Mapping[str, Condition] = {
    "hot": lambda s, h, x: bool(h.abs().max() > 25),
    "hot_item": lambda s, h, x: h.max().item() > 15,
    "hot_mean": lambda s, h, x: float(h.mean()) > 2,
    "any_hot": lambda s, h, x: bool((h > 20).any()),
    "cold": lambda s, h, x: float(h.std()) < 0.3,
    "sum_positive": lambda s, h, x: bool(h.sum() > 0),
    "first_entry": lambda s, h, x: h.flatten()[0].item() > 10,
}
CONDITIONS: Mapping[str, Condition] = {
    **OF_SHAPES, **OF_BATCHES, **OF_MODES, **OF_INPUTS, **OF_FEATURES,
}  # fmt: skip


class Arm(Stage):
    """An effect behind an ``if``."""

    def __init__(self, random: Random, kind: str, width: int) -> None:
        super().__init__()
        self.kind, self.width = kind, width
        table = random.choice((OF_SHAPES, OF_BATCHES, OF_MODES, OF_INPUTS, OF_FEATURES))
        self.when = random.choice(sorted(table))
        self.then = drawn_effect(random)
        self.words = f"if {self.when}: {self.then}"

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the features, changed or not."""
        if CONDITIONS[self.when](self, h, x):
            return EFFECTS[self.then](self, h, AXES[self.kind])
        return h


def drawn_effect(random: Random, more: Mapping[str, Effect] | None = None) -> str:
    """Draw the name of an effect, mostly of one that minds a cut."""
    harmful = sorted({**MIXING, **(more or {})})
    return random.choice(harmful if random.random() < 0.85 else sorted(HARMLESS))


class Always(Stage):
    """An effect in sight."""

    def __init__(self, random: Random, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.then = drawn_effect(random)
        self.words = f"always {self.then}"

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the features, changed."""
        return EFFECTS[self.then](self, h, AXES[self.kind])


def pointwise(kind: str, inputs: int, outputs: int) -> nn.Conv2d | nn.Linear:
    """Return a layer that mixes channels and nothing else."""
    return nn.Conv2d(inputs, outputs, 1) if kind == "image" else nn.Linear(inputs, outputs)


class Asleep(Stage):
    """A residual branch with an effect in it, whose scale starts at zero or nearly so."""

    scale: Tensor

    def __init__(self, random: Random, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b = pointwise(kind, width, 2 * width), pointwise(kind, 2 * width, width)
        self.norm = nn.Identity() if kind != "image" else nn.BatchNorm2d(width)
        self.by = random.choice(("rezero", "layer_scale", "zero_layer", "gate", "zero_norm"))
        self.then = drawn_effect(random, OF_LAYERS)
        self.words = f"asleep by {self.by}: {self.then}"
        start = {"rezero": torch.zeros(1), "gate": torch.full((1,), -20.0)}
        self.scale = nn.Parameter(start.get(self.by, torch.full((width,), 1e-6)))
        hidden = {"zero_layer": self.b, "zero_norm": self.norm if kind == "image" else self.b}.get(self.by)
        if hidden is not None:
            nn.init.zeros_(hidden.get_parameter("weight"))
            nn.init.zeros_(hidden.get_parameter("bias"))

    def wake(self) -> None:
        """Give what hides the branch a value that training might, the same for every channel."""
        names = {"zero_layer": ("b",), "zero_norm": ("norm",) if self.kind == "image" else ("b",)}
        with torch.no_grad():
            for name in names.get(self.by, ()):
                self.get_submodule(name).get_parameter("weight").fill_(1.0)
            self.scale.fill_(1.0)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the features plus next to nothing."""
        axis = AXES[self.kind]
        inner = EFFECTS[self.then](self, self.a(h).relu(), axis)
        branch: Tensor = self.norm(self.b(inner))
        if self.by in ("zero_layer", "zero_norm"):
            return h + branch
        scale = self.scale.sigmoid() if self.by == "gate" else self.scale
        return h + _along(scale, h, axis) * branch


class Tail(Stage):
    """An effect on what exceeds a threshold, which ordinary activations don't."""

    def __init__(self, random: Random, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.threshold = random.choice((12, 20))
        self.form = random.choice(("plus", "where", "below"))
        self.then = drawn_effect(random)
        self.words = f"tail {self.form} {self.threshold}: {self.then}"

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the features, changed where they are large."""
        effect, axis = EFFECTS[self.then], AXES[self.kind]
        if self.form == "where":
            return torch.where(h > self.threshold, effect(self, h, axis), h)
        sign = 1 if self.form == "plus" else -1
        return h + sign * effect(self, functional.relu(sign * h - self.threshold), axis)


class Cache(Stage):
    """A constant that is made of the width, once, or once for every shape, and remembered."""

    def __init__(self, random: Random, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.by = random.choice(("shape", "batch", "dtype", "once", "ramp"))
        self.words = f"cache by {self.by}"
        self.memory: dict[object, Tensor] = {}

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the features times the constant."""
        keys: dict[str, object] = {"shape": tuple(x.shape), "batch": len(x), "dtype": x.dtype}
        key, axis = keys.get(self.by), AXES[self.kind]
        if key not in self.memory:
            width = h.shape[axis]
            made = torch.linspace(0.5, 1.5, width) if self.by == "ramp" else torch.tensor([width**-0.5])
            self.memory[key] = _along(made, h, axis)
        return h * self.memory[key].to(h)


class Counter(Stage):
    """An effect from some call on, or once so many samples were seen."""

    calls: Tensor

    def __init__(self, random: Random, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.by = random.choice(("calls", "samples", "buffer"))
        self.then = drawn_effect(random)
        self.words = f"count {self.by}: {self.then}"
        self.seen = 0
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the features, changed once it has counted far enough."""
        self.seen += len(x) if self.by == "samples" else 1
        self.calls += 1
        limit = {"calls": 1, "samples": 12}.get(self.by)
        reached = self.seen > limit if limit is not None else bool(self.calls > 1)
        return EFFECTS[self.then](self, h, AXES[self.kind]) if reached else h


TRAPS: tuple[tuple[type[Stage], int], ...] = (
    (Arm, 10),
    (Asleep, 4),
    (Tail, 3),
    (Cache, 2),
    (Counter, 1),
    (Always, 1),
)
"""Traps, and how often each is drawn."""


def drawn_trap(random: Random, kind: str, width: int) -> Stage:
    """Draw a trap for features of a width."""
    kinds, weights = zip(*TRAPS, strict=True)
    (chosen,) = random.choices(kinds, weights)
    trap: Stage = chosen(random, kind, width)
    return trap
