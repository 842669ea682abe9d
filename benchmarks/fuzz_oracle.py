"""What ``python -m benchmarks.fuzz`` holds a cut network against: slow, obvious, none of the product's code.

The dense network stays as wide as it was; channels that a plan removes are zeroed where they are read. Both
are run on other sizes, batches and scales, in training mode, with gradients, and several times in a row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.fuzz_networks import Network
from benchmarks.fuzz_traps import SIZES, Asleep
from structprune.channels import ChannelGroups

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]


def zeroed(dense: nn.Module, groups: ChannelGroups, keep: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of the dense network in which removed channels are zeroed where they are read.

    Args:
        dense: the network; it stays as it is.
        groups: what was cut.
        keep: group name -> (C,) bool, True where a channel stays.
    """
    model = copy.deepcopy(dense)
    gone: dict[str, set[int]] = {}
    for group in groups:
        stays = keep[group.name].tolist()
        for row in group.consumers:
            pairs = zip(row.channels, row.gates, strict=True)
            gone.setdefault(row.layer, set()).update(channel for channel, gate in pairs if not stays[gate])
    for name, channels in gone.items():
        _zero(model.get_submodule(name), sorted(channels))
    return model


@torch.no_grad()
def _zero(layer: nn.Module, channels: list[int]) -> None:
    if isinstance(layer, nn.RNNBase):
        for key, columns in _recurrent_columns(layer, set(channels)).items():
            layer.get_parameter(key)[:, columns] = 0.0
    elif isinstance(layer, nn.MultiheadAttention):
        layer.in_proj_weight[:, channels] = 0.0
    elif isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        layer.weight[:, channels] = 0.0  # torch's attention never calls it
    else:
        axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)  # type: ignore[arg-type]
        layer.register_forward_pre_hook(_zeroing(channels, axis), with_kwargs=True)


def _zeroing(channels: list[int], axis: int) -> Hook:
    def hook(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        first = args[0] if args else kwargs["input"]
        left = torch.ones(first.shape[axis], dtype=first.dtype)
        left[channels] = 0.0
        product = first * left.reshape(-1, *(1,) * (-1 - axis))
        return ((product, *args[1:]), kwargs) if args else ((), {**kwargs, "input": product})

    return hook


def _recurrent_columns(layer: nn.RNNBase, gone: set[int]) -> dict[str, list[int]]:
    """Return weight -> columns that read what is gone: inputs, then units by layer and direction."""
    directions = 2 if layer.bidirectional else 1
    columns: dict[str, list[int]] = {}
    for level in range(layer.num_layers):
        for direction in range(directions):
            suffix = f"l{level}" + ("_reverse" if direction else "")
            own = layer.input_size + (level * directions + direction) * layer.hidden_size
            columns[f"weight_hh_{suffix}"] = [j for j in range(layer.hidden_size) if own + j in gone]
            below = layer.input_size + (level - 1) * directions * layer.hidden_size if level else 0
            width = directions * layer.hidden_size if level else layer.input_size
            columns[f"weight_ih_{suffix}"] = [j for j in range(width) if below + j in gone]
    return columns


@dataclass(frozen=True)
class Setting:
    """How both networks are run.

    Attributes:
        name: for the table.
        shape: of the inputs, the batch first.
        change: what is done to standard-normal inputs.
        train: in training mode.
        grad: with gradients switched on.
        calls: how often in a row, each on other inputs of the shape.
        dtype: of weights and inputs.
        awake: scales that start at zero are ones.
        batched: whether inputs have their batch dimension.
        remembers: whether a network is another one once it was called.
    """

    name: str
    shape: tuple[int, ...]
    change: Callable[[Tensor], Tensor] = lambda x: x
    train: bool = False
    grad: bool = False
    calls: int = 1
    dtype: torch.dtype = torch.float64
    awake: bool = False
    batched: bool = True
    remembers: bool = False

    @property
    def changes(self) -> bool:
        """Whether a run leaves a network as another one."""
        return self.remembers or self.train or self.awake or self.dtype != torch.float64


BATCHES = (1, 2, 20, 40)
SCALES = (0.1, 10.0, 40.0)
_SIDES: Mapping[str, tuple[int, ...]] = {"image": (6, 9, 12, 16), "sequence": (5, 12), "vector": ()}


def _times(scale: float) -> Callable[[Tensor], Tensor]:
    return lambda x: scale * x


def settings(network: Network) -> Iterator[Setting]:
    """Yield everything that a network is tried in, the ordinary first."""
    kind, shape = network.kind, network.input_shape
    base = Setting("as it is", (8, *shape), remembers=network.remembers)
    yield base
    for side in _SIDES[kind]:
        other = tuple(side if n == SIZES[kind] else n for n in shape)
        yield replace(base, name=f"size {side}", shape=(8, *other))
    if kind == "image":
        yield replace(base, name="oblong", shape=(8, *shape[:-1], 12))
    yield from (replace(base, name=f"batch {n}", shape=(n, *shape)) for n in BATCHES)
    yield from (replace(base, name=f"scale {s:g}", change=_times(s)) for s in SCALES)
    yield replace(base, name="positive", change=torch.abs)
    yield replace(base, name="negative", change=lambda x: -x.abs())
    yield replace(base, name="training", train=True, grad=True, calls=2)
    yield replace(base, name="training without gradients", train=True)
    yield replace(base, name="gradients", grad=True)
    yield replace(base, name="three calls", calls=3)
    yield replace(base, name="awake", awake=True)
    yield replace(base, name="float32", dtype=torch.float32)
    if network.takes_single:
        yield replace(base, name="unbatched", shape=shape, batched=False)


def apart(dense: nn.Module, small: nn.Module, setting: Setting, seed: int) -> float | None:
    """Return the largest difference, in spreads of the dense network's outputs; None where that can't run."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [setting.shape] * setting.calls
    inputs = [setting.change(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]
    try:
        expected = _run(dense, setting, inputs)
    except Exception:  # it doesn't take that size, or no single input
        return None
    try:
        got = _run(small, setting, inputs)
    except Exception:
        return float("inf")
    pairs = zip(expected, got, strict=True)
    spread = None if setting.batched and setting.shape[0] > 1 else _spread_at(dense, setting, generator)
    least = 1e-6 if setting.dtype == torch.float64 else 0.1  # of float32 what rounding can't be
    return max(_difference(a, b, spread, least) for a, b in pairs)


def _run(model: nn.Module, setting: Setting, inputs: Iterable[Tensor]) -> list[Tensor]:
    if setting.changes:  # a copy, so that what it remembers is of this setting alone
        model = copy.deepcopy(model).to(setting.dtype).train(setting.train)
    if setting.awake:
        for module in model.modules():
            if isinstance(module, Asleep):
                module.wake()
    with torch.set_grad_enabled(setting.grad), _nothing_dropped():
        outputs = [model(x.to(setting.dtype)) for x in inputs]
    return [leaf.detach() for leaf in tree_leaves(outputs)]


def _spread_at(dense: nn.Module, setting: Setting, generator: torch.Generator) -> float:
    """Return the spread over a batch of what comes alone."""
    one = setting.shape[1:] if setting.batched else setting.shape
    x = setting.change(torch.randn(8, *one, generator=generator, dtype=torch.float64))
    return max(float(leaf.std(0).mean()) for leaf in _run(dense, setting, [x]))


def _difference(expected: Tensor, got: Tensor, spread: float | None, least: float) -> float:
    if expected.shape != got.shape:
        return float("inf")
    a, b = expected.double(), got.double()
    finite = a.isfinite()
    if not bool(finite.any()):
        return 0.0
    if not bool(b[finite].isfinite().all()):
        return float("inf")
    largest = float(a[finite].abs().max())
    own = float(a.std(0).mean()) if spread is None else spread
    unit = max(own if own == own else 0.0, least * largest)
    off = float((a[finite] - b[finite]).abs().max())
    return off / unit if off else 0.0


@contextmanager
def _nothing_dropped() -> Iterator[None]:
    """Let dropout draw nothing."""
    with ExitStack() as stack:
        for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"):
            stack.enter_context(patch.object(nn.functional, name, lambda x, *_, **__: x))
        yield


def differences(network: Network, dense: nn.Module, small: nn.Module, seed: int) -> dict[str, float | None]:
    """Return setting -> how far a cut network is from the dense one with removed channels zeroed.

    Args:
        network: the network of the grammar, as it was drawn.
        dense: with removed channels zeroed.
        small: the cut one.
        seed: of the inputs.
    """
    a, b = (copy.deepcopy(model).double().eval() for model in (dense, small))
    return {setting.name: apart(a, b, setting, seed) for setting in settings(network)}
