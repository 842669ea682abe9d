"""Settings under which two networks are compared: sizes, batches, scales, gradients, training mode.

A forward pass may take another way for a larger image, a larger batch, stronger activations, while gradients
are recorded or in training mode. Each setting is one call that takes such a way, as cheap as it can be: on
the smallest images that the network takes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from structprune.arithmetic import doubles_kept, exact_arithmetic
from structprune.batch_norm import BatchNormMode, buffers_kept, evaluating
from structprune.comparison.gap import Inputs, gap
from structprune.comparison.inert import undrawn
from structprune.layers import batch_norms
from structprune.outputs import tensors_of
from structprune.report import Branch

FEW = 2
"""Inputs of a setting: the fewest over which outputs can vary."""

SEVERAL = 8
"""Inputs where batches normalise themselves: over two, statistics of a single pixel are but a sign."""

SEEDS, NOISE = 4, 1e-6
"""Seeds under which a network that draws puts out something else, and by how much of the largest output."""

HIDING = "hiding weights drawn anew"
CHAOS = 1e-2
"""max|a - b| / max|b| above which outputs of two roundings of an input say nothing."""

UNBATCHED = "without a batch dimension"

SCALES = (0.1, 10.0, 1000.0)
"""Factors on real-valued inputs: the last reaches tails that only strong activations do."""

MANY, SOME = 20, 5
"""Inputs of a large batch, and of one that is to cost less."""

SMALLEST = (16, 24, 32, 48, 64, 96, 128, 160, 192)
"""Sides of images that are tried, the smallest first."""

MOST_PIXELS = 4.0
"""How many times the pixels of the given images a setting may take."""

MOST_BOUNDS = 6
"""Sizes and batches that are tried since the code compares with them, of each at most."""

Resize = Callable[[Inputs, float], Inputs]

_CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    **{f"inputs times {factor:g}": partial(torch.mul, other=factor) for factor in SCALES},
    "positive inputs": torch.abs,
    "negative inputs": lambda x: -x.abs(),
    "negative inputs times 1000": lambda x: -1000 * x.abs(),
}


@dataclass(frozen=True)
class Setting:
    """One way to call a network.

    Attributes:
        words: what it is, for a sentence: ``inputs times 10``.
        inputs: positional inputs.
        gradients: whether operations are recorded for gradients.
        training: whether modules are in training mode; dropout and drop-path draw nothing then.
        batch_norm: whose statistics normalise outside training mode.
        seed: of whatever the network draws.
    """

    words: str
    inputs: Inputs
    gradients: bool = False
    training: bool = False
    batch_norm: BatchNormMode = "fixed"
    seed: int = 0


@dataclass(frozen=True)
class Settings:
    """What is tried with a network.

    Attributes:
        tried: the settings that the network takes, in the order in which they are called.
        refused: words of those that it does not take.
    """

    tried: tuple[Setting, ...]
    refused: tuple[str, ...] = ()

    def until(self, last: Setting) -> Settings:
        """These settings up to one of them."""
        words = [setting.words for setting in self.tried]
        return replace(self, tried=self.tried[: words.index(last.words) + 1])

    def without(self, setting: Setting) -> Settings:
        """These settings but one, which is named among those that are not tried."""
        return Settings(
            tuple(each for each in self.tried if each is not setting), (*self.refused, setting.words)
        )

    def __str__(self) -> str:
        words = ", ".join(dict.fromkeys(setting.words for setting in self.tried))
        return f"{words}; not tried: {', '.join(self.refused)}" if self.refused else words


def settings_of(model: nn.Module, inputs: Inputs, flow: Sequence[Branch] = ()) -> Settings:
    """Settings that take other ways through a network than its example does, as far as it takes them.

    Args:
        model: a network that may be run in any mode, on the device of the inputs.
        inputs: at least one input, (N, ...).
        flow: branches that were seen in its code; sizes that they compare with are tried on both sides.

    Returns:
        Settings that begin and end with a plain call, so that what a network keeps of a call shows.
    """
    whole = _first(inputs, FEW)
    batch_norm: BatchNormMode = "fixed" if _varies(model, whole, "fixed") else "batch"
    several = _first(inputs, SEVERAL) if _entries(whole) * SEVERAL < 100_000 else whole
    whole = whole if batch_norm == "fixed" else several
    resize = next((r for r in _RESIZES if _takes_sizes(model, whole, r, batch_norm)), None)
    small = _smallest(model, whole, resize, batch_norm) if resize else whole
    offers = [
        Setting(_plain_words(whole, small, resize), small),
        *_batches(whole, small, flow),
        *(_sizes(whole, small, resize, flow) if resize else ()),
        *_scaled(small),
        *_masked(small),
        *_unbatched(model, small, batch_norm, flow),
        Setting("with gradients", small, gradients=True),
        Setting("in training mode", several, gradients=True, training=True),
        Setting("called again", small),
    ]
    rows = [replace(setting, batch_norm=batch_norm) for setting in offers]
    if batch_norm == "fixed" and any(True for _ in batch_norms(model)):
        own = Setting("normalised by its own statistics", several, batch_norm="batch")
        rows.insert(-1, own)
    refusals = [_refusal(model, row) for row in rows]
    words = [f"{row.words}{why}" for row, why in zip(rows, refusals, strict=True) if why is not None]
    tried = tuple(row for row, why in zip(rows, refusals, strict=True) if why is None)
    words += [] if resize else ["other sizes"]
    return Settings(
        tried, tuple(dict.fromkeys([*words, *_too_large(flow, _side(whole, resize) if resize else 0)]))
    )


def _too_large(flow: Iterable[Branch], side: int) -> Iterator[str]:
    """Name sizes that the code compares its inputs' with, and that are not tried since they are too large."""
    most = side * MOST_PIXELS**0.5
    for branch in flow:
        if branch.kind == "shape" and branch.size == side and (branch.bound or 0) + 1 > most:
            yield f"size {branch.bound:g}"


def on_exposed(settings: Settings) -> Settings:
    """The same settings, for a copy whose hiding weights are drawn anew."""
    return Settings(tuple(replace(row, words=f"{row.words}, {HIDING}") for row in settings.tried))


def _unbatched(
    model: nn.Module, small: Inputs, batch_norm: BatchNormMode, flow: Iterable[Branch]
) -> Iterator[Setting]:
    one = Setting(UNBATCHED, tuple(x[0] if x.dim() else x for x in small))
    if _takes_unbatched(model, Setting("", small, batch_norm=batch_norm), one, flow):
        yield one


def _takes_unbatched(model: nn.Module, plain: Setting, one: Setting, flow: Iterable[Branch]) -> bool:
    """Tell whether a network makes of one input what it makes of it in a batch, or else asks for its rank.

    Where neither holds it takes another axis for channels, and runs by accident.
    """
    outputs, alone = (called_in(model, model, each) for each in (plain, one))
    if alone is None or plain.batch_norm == "batch":
        return False
    pairs = [*zip(tensors_of(outputs), tensors_of(alone), strict=False)]
    fitting = all(a.dim() > 0 and a.shape[1:] == b.shape for a, b in pairs)
    ranks = {x.dim() for x in plain.inputs}
    asks = any(branch.kind == "shape" and branch.size in ranks for branch in flow)
    return fitting and (asks or all(torch.allclose(a[0], b, 1e-3, 1e-5) for a, b in pairs))


def _refusal(model: nn.Module, setting: Setting) -> str | None:
    """Why a setting can't be compared in, as an addition to its words; None where it can."""
    if not _finite(model, setting):
        return ""
    if setting.training and _draws(model, setting):
        return " (it draws at random there)"
    is_batch = setting.training or setting.batch_norm == "batch"
    return " (rounding decides there)" if is_batch and _is_chaotic(model, setting) else None


def _is_chaotic(model: nn.Module, setting: Setting) -> bool:
    """Tell whether rounding of inputs changes outputs a lot: a norm may take statistics of few values."""
    moved = replace(setting, inputs=tuple(nudged(x) for x in setting.inputs))
    outputs, others = (called_in(model, model, each) for each in (setting, moved))
    return gap(outputs, others).error > CHAOS


def _draws(model: nn.Module, setting: Setting) -> bool:
    """Tell whether a network puts out something else for another seed."""
    outputs = [called_in(model, model, replace(setting, seed=seed)) for seed in range(SEEDS)]
    return any(gap(outputs[0], others).error > NOISE for others in outputs[1:])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed whatever a network may draw from while the block runs, and put all states back."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # networks draw from the old generator
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def in_setting(model: nn.Module, setting: Setting) -> Iterator[None]:
    """Put a network, a copy, into a setting's mode while the block runs."""
    for parameter in model.parameters() if setting.gradients else ():
        parameter.requires_grad_(parameter.is_floating_point())  # those of a frozen network, too
    with ExitStack() as stack:
        stack.enter_context(_seeded(setting.seed))
        stack.enter_context(torch.set_grad_enabled(setting.gradients))
        stack.enter_context(exact_arithmetic())
        stack.enter_context(doubles_kept())
        stack.enter_context(evaluating(model, setting.batch_norm))
        if setting.training:
            model.train()
            stack.enter_context(undrawn(model))
        yield


def _plain_words(whole: Inputs, small: Inputs, resize: Resize | None) -> str:
    return f"size {_side(small, resize)}" if resize and small is not whole else "another call"


def _finite(model: nn.Module, setting: Setting) -> bool:
    """Tell whether the network runs in a setting and puts out numbers."""
    outputs = called_in(model, model, setting)
    return outputs is not None and all(bool(torch.isfinite(x).all()) for x in _reals(outputs))


def called_in(model: nn.Module, call: Callable[..., Any], setting: Setting) -> Any:
    """Return what a call puts out in a setting, its buffers as before; None where it raises."""
    with buffers_kept(model):
        return kept_in(model, call, setting)


def kept_in(model: nn.Module, call: Callable[..., Any], setting: Setting) -> Any:
    """Return what a call puts out in a setting; None where it raises. What it writes to buffers stays."""
    try:
        with in_setting(model, setting):
            return call(*(x.clone() for x in setting.inputs))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a size that the network does not take, targets that training wants
        return None


def _reals(outputs: Any) -> Iterator[Tensor]:
    return (x for x in tensors_of(outputs) if x.is_floating_point())


def _varies(model: nn.Module, inputs: Inputs, batch_norm: BatchNormMode) -> bool:
    outputs = called_in(model, model, Setting("", inputs, batch_norm=batch_norm))
    return outputs is not None and gap(outputs, outputs).counts


def nudged(x: Tensor) -> Tensor:
    """The same input, rounded otherwise."""
    if not x.is_floating_point():
        return x
    # Not all in one direction, which a norm would take back.
    signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign().to(x)
    return x * (1 + 4 * torch.finfo(x.dtype).eps * signs)


def cast(setting: Setting, dtype: torch.dtype) -> Setting:
    """The same setting in another precision."""
    return replace(setting, inputs=tuple(x.to(dtype) if x.is_floating_point() else x for x in setting.inputs))


# ---- batches and scales


def _first(inputs: Inputs, count: int) -> Inputs:
    """The first inputs, over again where there are fewer, so that a batch of any size can be had."""
    return tuple(x[torch.arange(count, device=x.device) % len(x)] if x.dim() else x for x in inputs)


def _batches(whole: Inputs, small: Inputs, flow: Iterable[Branch]) -> Iterator[Setting]:
    """One input, and many where images are small; what the code compares a batch with, on both sides."""
    affordable = _entries(small) * MANY <= MOST_PIXELS * FEW * _entries(whole) or _entries(small) < 20_000
    counts = [1, MANY if affordable else SOME, *_beyond(flow, FEW, MANY * 8)]
    for count in dict.fromkeys(counts):
        yield Setting(f"batch of {count}", _first(small, count))


def _scaled(inputs: Inputs) -> Iterator[Setting]:
    if any(x.is_floating_point() for x in inputs):
        for words, change in _CHANGES.items():
            yield Setting(words, tuple(change(x) if x.is_floating_point() else x for x in inputs))


def _masked(inputs: Inputs) -> Iterator[Setting]:
    """Masks of nothing but ones with zeros at their end, as shorter sequences have them."""
    masks = [not x.is_floating_point() and x.dim() == 2 and bool((x == 1).all()) for x in inputs]
    if any(masks):
        rows = [_ended(x) if is_mask else x for x, is_mask in zip(inputs, masks, strict=True)]
        yield Setting("masks with zeros", tuple(rows))


def _ended(mask_NT: Tensor) -> Tensor:
    ended = mask_NT.clone()
    ended[:, mask_NT.shape[1] * 3 // 4 :] = 0
    return ended


def _entries(inputs: Inputs) -> int:
    return sum(math.prod(x.shape[1:]) for x in inputs)


def _beyond(flow: Iterable[Branch], size: int, most: int) -> list[int]:
    """Sizes around the bounds that the code compares with, at which a comparison comes out otherwise.

    Args:
        flow: comparisons of sizes, of whatever dimension.
        size: what the dimension in question was when the pass was watched.
        most: beyond that nothing is tried.
    """
    around: list[int] = []
    # Those of the dimension itself, by its size, before what may be a width.
    for branch in sorted(flow, key=lambda each: each.size != size):
        if branch.kind == "shape" and branch.size and branch.bound is not None:
            per_unit = size / branch.size
            bound = branch.bound * per_unit
            around += [
                math.floor(bound) + 1,
                math.ceil(bound) - 1,
                *([round(bound)] if bound == round(bound) else []),
            ]
    return [n for n in dict.fromkeys(around) if 0 < n <= most and n != size][:MOST_BOUNDS]


# ---- sizes: images, and sequences


def _is_image(x: Tensor) -> bool:
    return x.dim() >= 4 and x.is_floating_point()


def _resize_images(inputs: Inputs, factor: float) -> Inputs:
    """Other heights and widths, by cutting off or repeating pixels."""
    return tuple(_stretched(x, range(2, x.dim()), factor) if _is_image(x) else x for x in inputs)


def _lengthened(inputs: Inputs, dim: int, factor: float) -> Inputs:
    """Images that are wider than high, or higher than wide."""
    return tuple(_stretched(x, (x.dim() + dim,), factor) if _is_image(x) else x for x in inputs)


def _resize_last(inputs: Inputs, factor: float) -> Inputs:
    """Longer or shorter signals (N, C, T)."""
    return tuple(_stretched(x, (2,), factor) if x.dim() == 3 else x for x in inputs)


def _resize_steps(inputs: Inputs, factor: float) -> Inputs:
    """Longer or shorter sequences: ids (N, T), masks beside them, or features (N, T, F)."""
    return tuple(
        _stretched(x, (1,), factor) if x.dim() == 3 or (x.dim() == 2 and not x.is_floating_point()) else x
        for x in inputs
    )


_RESIZES: tuple[Resize, ...] = (_resize_images, _resize_last, _resize_steps)


def _stretched(x: Tensor, dims: Iterable[int], factor: float) -> Tensor:
    for dim in dims:
        size = max(1, round(x.shape[dim] * factor))
        x = x.index_select(dim, torch.arange(size, device=x.device) % x.shape[dim])
    return x


def _side(inputs: Inputs, resize: Resize) -> int:
    """The length of what a resize changes."""
    doubled = resize(inputs, 2.0)
    return next(
        (
            size
            for x, y in zip(inputs, doubled, strict=True)
            for size, other in zip(x.shape, y.shape, strict=True)
            if size != other
        ),
        0,
    )


def _takes_sizes(model: nn.Module, inputs: Inputs, resize: Resize, batch_norm: BatchNormMode) -> bool:
    side = _side(inputs, resize)
    if not side:
        return False
    others = (Setting("", resize(inputs, f), batch_norm=batch_norm) for f in (_larger(side) / side, 0.5))
    return any(_finite(model, setting) for setting in others)


def _smallest(model: nn.Module, inputs: Inputs, resize: Resize, batch_norm: BatchNormMode) -> Inputs:
    """The smallest inputs that the network takes and over which its outputs vary."""
    side = _side(inputs, resize)
    for size in (s for s in SMALLEST if s < side):
        smaller = resize(inputs, size / side)
        plain = Setting("", smaller, batch_norm=batch_norm)
        if _varies(model, smaller, batch_norm) and not (batch_norm == "batch" and _is_chaotic(model, plain)):
            return smaller
    return inputs


def _larger(side: int) -> int:
    """A somewhat larger side that networks with strides take too."""
    return side + (32 if side % 32 == 0 else 16 if side % 16 == 0 else max(2, side // 2))


def _sizes(whole: Inputs, small: Inputs, resize: Resize, flow: Iterable[Branch]) -> Iterator[Setting]:
    side = _side(whole, resize)
    most = math.floor(side * MOST_PIXELS**0.5)
    other = (side if side < 64 else _side(small, resize)) + 1  # odd where that is even: strides round there
    sides = [_larger(side), other, *_beyond(flow, side, most)]
    if any(_is_image(x) for x in whole):
        short, long = _side(small, resize), _larger(_side(small, resize))
        yield Setting(f"size {short} by {long}", _lengthened(small, -1, long / short))
        yield Setting(f"size {long} by {short}", _lengthened(small, -2, long / short))
    for size in dict.fromkeys(s for s in sides if s not in (side, _side(small, resize))):
        yield Setting(f"size {size}", resize(whole, size / side))
