"""The grammar of ``python -m benchmarks.fuzz``: networks drawn from common layers, about half with traps.

A number makes a network, the same every time and everywhere. Its ``words`` are its sentence of the grammar:

    network  = kind ":" stem stage* head
    kind     = image (N,3,8,8) | sequence (N,6,6) | vector (N,10)
    stage    = layer norm activation | residual | concat | halves | excite | attend | recur | pool | trap
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.fuzz_traps import AXES, FEATURES, SIZES, Cache, Counter, Stage, drawn_trap, pointwise

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "leaky": functional.leaky_relu,
    "hardswish": functional.hardswish,
    "tanh": torch.tanh,
    "none": lambda h: h,
}


@dataclass(frozen=True)
class Draw:
    """What a stage is drawn from.

    Attributes:
        random: what decides.
        kind: that of the network.
        width: channels of the features that come in.
    """

    random: Random
    kind: str
    width: int


class Chain(Stage):
    """Stages one after the other."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.words = " > ".join(str(stage.words) for stage in self.stages)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return what the last stage puts out."""
        for stage in self.stages:
            h = stage(h, x)
        return h


class Layer(Stage):
    """A layer with weights, a norm and an activation."""

    def __init__(self, draw: Draw, width: int, plain: bool = False) -> None:
        super().__init__()
        random = draw.random
        self.kind, self.width = draw.kind, width
        self.layer, layer_words = (_conv if draw.kind == "image" else _linear)(draw, width, plain)
        self.norm, norm_words = _norm(draw, width)
        self.activation = random.choice(sorted(ACTIVATIONS))
        self.words = f"{layer_words} {norm_words} {self.activation}".replace(" none", "")

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return new features."""
        h = self.layer(h)
        if self.kind == "sequence":  # the norms of torch have channels in the second dimension
            h = self.norm(h.flatten(0, -2)).reshape(h.shape)
        elif isinstance(self.norm, nn.LayerNorm):
            h = self.norm(h.movedim(AXES[self.kind], -1)).movedim(-1, AXES[self.kind])
        else:
            h = self.norm(h)
        return ACTIVATIONS[self.activation](h)


def _conv(draw: Draw, width: int, plain: bool) -> tuple[nn.Module, str]:
    random, inputs = draw.random, draw.width
    kernel = random.choice((1, 3))
    options = ["plain", "plain", "grouped"] + ([] if plain else ["up", "down"])
    form = "depthwise" if inputs == width and random.random() < 0.3 else random.choice(options)
    if form == "up":
        return nn.ConvTranspose2d(inputs, width, 2, 2), f"up {width}"
    if form == "down":
        return nn.Conv2d(inputs, width, 3, 2, 1), f"down {width}"
    groups = {"depthwise": width, "grouped": random.choice((2, 4))}.get(form, 1)
    groups = groups if inputs % groups == 0 else 1
    bias = random.random() < 0.5
    layer = nn.Conv2d(inputs, width, kernel, padding=kernel // 2, groups=groups, bias=bias)
    return layer, f"conv {width} k{kernel}" + (f" g{groups}" if groups > 1 else "")


def _linear(draw: Draw, width: int, _: bool) -> tuple[nn.Module, str]:
    return nn.Linear(draw.width, width), f"linear {width}"


def _norm(draw: Draw, width: int) -> tuple[nn.Module, str]:
    random, image = draw.random, draw.kind == "image"
    batch = nn.BatchNorm2d if image else nn.BatchNorm1d
    norms: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "batch": lambda: _seen(batch(width)),
        "group": lambda: nn.GroupNorm(4 if width % 4 == 0 else 2, width),
        "layer": lambda: nn.LayerNorm(width),
    }
    if image:
        norms["instance"] = lambda: nn.InstanceNorm2d(width, affine=True)
    name = random.choices(sorted(norms), [3 if name in ("none", "batch") else 1 for name in sorted(norms)])[0]
    return norms[name](), name


def _seen(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Module:
    """Return a batch norm that looks trained: every channel differs."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0.0, 0.3)
        norm.running_mean.normal_(0.0, 0.3)
        norm.running_var.uniform_(0.5, 1.5)
    return norm


class Residual(Stage):
    """Features plus what a branch makes of them."""

    def __init__(self, inside: Stage) -> None:
        super().__init__()
        self.inside = inside
        self.words = f"residual({inside.words})"

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the sum."""
        branch: Tensor = self.inside(h, x)
        return h + branch


class Concat(Stage):
    """Two branches beside each other."""

    def __init__(self, kind: str, first: Stage, second: Stage) -> None:
        super().__init__()
        self.kind, self.first, self.second = kind, first, second
        self.words = f"concat({first.words} | {second.words})"

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return both, joined."""
        return torch.cat([self.first(h, x), self.second(h, x)], AXES[self.kind])


class Halves(Stage):
    """The channels in two parts, of which one goes through a branch."""

    def __init__(self, kind: str, width: int, by_size: bool, inside: Stage) -> None:
        super().__init__()
        self.kind, self.part_width, self.by_size, self.inside = kind, width // 2, by_size, inside
        self.words = f"{'split' if by_size else 'chunk'}({inside.words})"

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return both parts, joined."""
        axis = AXES[self.kind]
        parts = torch.split(h, self.part_width, axis) if self.by_size else h.chunk(2, axis)
        return torch.cat([parts[0], self.inside(parts[1], x)], axis)


class Excite(Stage):
    """Squeeze and excitation."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.squeeze, self.excite = pointwise(kind, width, 4), pointwise(kind, 4, width)
        self.words = "excite 4"

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the features, each channel scaled."""
        pooled = h.mean((-1, -2), keepdim=True) if self.kind == "image" else h
        gates: Tensor = self.excite(torch.relu(self.squeeze(pooled)))
        return h * gates.sigmoid()


class Attend(Stage):
    """Attention over pixels or steps, by hand or by torch's own module."""

    def __init__(self, kind: str, width: int, by_hand: bool) -> None:
        super().__init__()
        self.kind, self.num_heads, self.by_hand = kind, 2, by_hand
        self.head_dim = width // 2
        if by_hand:
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
            self.out = nn.Linear(width, width)
        else:
            self.attention = nn.MultiheadAttention(width, self.num_heads, batch_first=True)
        self.words = f"attend {'by hand' if by_hand else 'torch'}"

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the features plus what they attend to."""
        tokens = h.flatten(-2).transpose(-1, -2) if self.kind == "image" else h
        mixed = self._by_hand(tokens) if self.by_hand else self.attention(tokens, tokens, tokens)[0]
        return h + (mixed.transpose(-1, -2).reshape(h.shape) if self.kind == "image" else mixed)

    def _by_hand(self, tokens: Tensor) -> Tensor:
        q, k, v = (
            layer(tokens).unflatten(-1, (self.num_heads, self.head_dim)).transpose(-2, -3)
            for layer in (self.q, self.k, self.v)
        )
        shares = (q @ k.transpose(-1, -2) / self.head_dim**0.5).softmax(-1)
        out: Tensor = self.out((shares @ v).transpose(-2, -3).flatten(-2))
        return out


class Recur(Stage):
    """A recurrent layer."""

    def __init__(self, draw: Draw, width: int) -> None:
        super().__init__()
        kind, both = draw.random.choice((nn.LSTM, nn.GRU)), draw.random.random() < 0.3
        self.layer = kind(draw.width, width // 2 if both else width, batch_first=True, bidirectional=both)
        self.words = f"{kind.__name__.lower()} {width}{' both ways' if both else ''}"

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the states of every step."""
        states: Tensor = self.layer(h)[0]
        return states


class Plain(Stage):
    """What has no weights: pooling, dropout, activations with a parameter a channel."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.words = name
        modules: dict[str, Callable[[], nn.Module]] = {
            "max_pool": lambda: nn.MaxPool2d(2),
            "avg_pool": lambda: nn.AvgPool2d(2, ceil_mode=True),
            "dropout": lambda: nn.Dropout(0.2),
            "prelu": lambda: nn.PReLU(width),
            "upsample": lambda: nn.Upsample(scale_factor=2),
        }
        self.module = modules[name]()

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the features, pooled or the like."""
        out: Tensor = self.module(h)
        return out


class Head(Stage):
    """What makes outputs (N, 5, ...) of the features."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.kind = draw.kind
        forms = {"image": ("mean", "max", "grid", "dense"), "sequence": ("mean", "last", "dense")}
        self.form = draw.random.choice(forms.get(draw.kind, ("dense",)))
        self.pool = nn.AdaptiveAvgPool2d(2)
        inputs = 4 * draw.width if self.form == "grid" else draw.width
        self.out = pointwise(draw.kind if self.form == "dense" else "vector", inputs, 5)
        self.words = f"head {self.form}"

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the outputs."""
        over = (-1, -2) if self.kind == "image" else (-2,)
        forms: dict[str, Callable[[], Tensor]] = {
            "mean": lambda: h.mean(over),
            "max": lambda: h.amax(over),
            "grid": lambda: self.pool(h).flatten(-3),
            "last": lambda: h.select(-2, h.shape[-2] - 1),
            "dense": lambda: h,
        }
        out: Tensor = self.out(forms[self.form]())
        return out


class Network(nn.Module):
    """A network of the grammar; (N, 5, ...) of images (N,3,H,W), sequences (N,T,6) or vectors (N,10)."""

    def __init__(self, kind: str, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.kind, self.stages = kind, Chain(stages)
        self.words = f"{kind}: {self.stages.words}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        out: Tensor = self.stages(x, x)
        return out

    @property
    def takes_single(self) -> bool:
        """Whether an input without a batch dimension means one input: to a GroupNorm it doesn't."""
        return self.kind != "image" or not any(isinstance(m, nn.GroupNorm) for m in self.modules())

    @property
    def remembers(self) -> bool:
        """Whether a call depends on earlier ones."""
        return any(isinstance(module, (Cache, Counter)) for module in self.modules())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input of the example."""
        sizes = {"image": (SIZES["image"],) * 2, "sequence": (SIZES["sequence"],)}.get(self.kind, ())
        features = (FEATURES[self.kind],)
        return features + sizes if self.kind == "image" else sizes + features


def network(number: int) -> Network:
    """Make the network of a number: float32, in evaluation mode."""
    random = Random(number)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        kind = random.choices(("image", "sequence", "vector"), (6, 3, 1))[0]
        traps = 0 if random.random() < 0.5 else random.choices((1, 2, 3), (6, 3, 1))[0]
        return Network(kind, _stages(random, kind, traps)).eval()


def _stages(random: Random, kind: str, traps: int) -> list[Stage]:
    width = random.choice((8, 12, 16))
    stages: list[Stage] = [Layer(Draw(random, kind, FEATURES[kind]), width, plain=True)]
    count = random.randint(max(1, traps), 4)
    trapped = set(random.sample(range(count), traps))
    for position in range(count):
        if position in trapped:
            stages.append(_placed(random, kind, width))
        grown = any(word in stage.words for stage in stages for word in ("up ", "upsample"))
        stage, width = _stage(Draw(random, kind, width), attending=kind != "vector" and not grown)
        stages.append(stage)
    return [*stages, Head(Draw(random, kind, width))]


def _placed(random: Random, kind: str, width: int) -> Stage:
    """Draw a trap, between stages or behind a layer in a branch."""
    trap = drawn_trap(random, kind, width)
    if random.random() < 0.7:
        return trap
    draw = Draw(random, kind, width)
    return Residual(Chain([Layer(draw, width, plain=True), trap, Layer(draw, width, plain=True)]))


def _stage(draw: Draw, attending: bool) -> tuple[Stage, int]:
    """Draw a stage, and say how wide what it puts out is."""
    random, kind, width = draw.random, draw.kind, draw.width
    forms = ["layer", "layer", "residual", "concat", "halves", "excite"] + ["attend"] * attending
    forms += {"image": ["pool", "pool"], "sequence": ["recur", "recur"]}.get(kind, [])
    form = random.choice(forms)
    wide = random.choice((8, 12, 16))
    if form == "layer":
        return Layer(draw, wide), wide
    if form == "residual":
        inner = random.choice((8, 16))
        inside = [Layer(draw, inner, plain=True), Layer(Draw(random, kind, inner), width, plain=True)]
        return Residual(Chain(inside)), width
    if form == "concat":
        other = random.choice((4, 8))
        branches = Layer(draw, wide, plain=True), Layer(draw, other, plain=True)
        return Concat(kind, *branches), wide + other
    if form == "halves":
        part = Draw(random, kind, width // 2)
        return Halves(kind, width, random.random() < 0.5, Layer(part, width // 2, plain=True)), width
    if form == "excite":
        return Excite(kind, width), width
    if form == "attend":
        return Attend(kind, width, random.random() < 0.5), width
    if form == "recur":
        return Recur(draw, wide), wide
    return Plain(random.choice(("max_pool", "avg_pool", "dropout", "prelu", "upsample")), width), width
