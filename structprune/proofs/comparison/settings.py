"""Settings under which two networks are compared: sizes, batches, scales, gradients, training mode.

Each takes a way through the forward pass that the example may not take, as cheap as it can be: on the
smallest images that the network takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from structprune.choices import BatchNormMode
from structprune.nn.layers import batch_norms
from structprune.nn.outputs import tensors_of
from structprune.proofs.comparison.calls import Setting, are_finite, called_in
from structprune.proofs.comparison.gap import Inputs
from structprune.proofs.comparison.sizes import (
    MOST_PIXELS,
    Resize,
    beyond,
    other_sizes,
    resize_of,
    side_of,
    smallest,
    too_large,
    varies,
)
from structprune.report.data import Branch

FEW = 2
"""Inputs of a setting: the fewest over which outputs can vary."""

SEVERAL = 8
"""Inputs where batches normalise themselves: over two, statistics of a single pixel are but a sign."""

MANY, SOME = 20, 3
"""Inputs of a large batch, and of one that is to cost less."""

ENOUGH = 4.0
"""Times the side of the smallest images that is used where batches normalise themselves, if it can be."""

AFFORDABLE = 50_000
"""Entries of all inputs together up to which a batch is made larger."""

HIDING = "hiding weights drawn anew"

UNBATCHED = "without a batch dimension"

_SCALES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "inputs times 0.1": partial(torch.mul, other=0.1),
    "inputs times 10": partial(torch.mul, other=10.0),
    # Tails that only strong activations reach.
    "inputs times 1000": partial(torch.mul, other=1000.0),
    "negative inputs times 1000": lambda x: -1000 * x.abs(),
}

_FOR_VALUES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "inputs times 100": partial(torch.mul, other=100.0),
    "positive inputs": torch.abs,
    "negative inputs": lambda x: -x.abs(),
}
"""Further changes, of inputs whose values the code reads."""


@dataclass(frozen=True)
class Settings:
    """What is tried with a network.

    Attributes:
        tried: settings in the order in which they are called.
        refused: words of those that can't be tried.
        varied: whether the network's own outputs vary over its inputs.
        exact: whether float64 is called for at once: where code reads values, what another arm changes may be
            hidden from float32 by a norm.
    """

    tried: tuple[Setting, ...]
    refused: tuple[str, ...] = ()
    varied: bool = True
    exact: bool = False

    def of_batch(self) -> Settings:
        """Those in which the batch normalises itself, unlike in the first."""
        mode = self.tried[0].batch_norm if self.tried else "fixed"
        return replace(
            self, tried=tuple(each for each in self.tried if each.training or each.batch_norm != mode)
        )

    def few(self) -> Settings:
        """The first of these settings, those in which the batch normalises itself, and the last."""
        return replace(self, tried=(self.tried[0], *self.of_batch().tried, *self.tried[1:][-1:]))

    def until(self, last: Setting) -> Settings:
        """These settings up to one of them."""
        words = [setting.words for setting in self.tried]
        return replace(self, tried=self.tried[: words.index(last.words) + 1])

    def without(self, reasons: Mapping[str, str]) -> Settings:
        """These settings but some, which are named among those that can't be tried.

        Args:
            reasons: words of settings -> why they can't be tried, or "".
        """
        named = (f"{words} ({why})" if why else words for words, why in reasons.items())
        left = tuple(each for each in self.tried if each.words not in reasons)
        return replace(self, tried=left, refused=(*self.refused, *named))

    def __str__(self) -> str:
        words = ", ".join(dict.fromkeys(setting.words for setting in self.tried))
        refused = ", ".join(dict.fromkeys(self.refused))
        return f"{words}; not tried: {refused}" if refused else words


def settings_of(model: nn.Module, inputs: Inputs, flow: Sequence[Branch] = ()) -> Settings:
    """Settings that take other ways through a network than its example does.

    Args:
        model: a network that may be run in any mode, on the device of the inputs.
        inputs: at least one input, (N, ...).
        flow: branches that were seen in its code; sizes that they compare with are tried on both sides.

    Returns:
        Settings that begin and end with a plain call, so that what a network keeps of a call shows. Whether
        the network takes them, a comparison tells.
    """
    example = _first(inputs, FEW)
    varied = varies(model, example, "fixed")
    batch_norm: BatchNormMode = "fixed" if varied else "batch"
    if not varied:
        example = _several(example)
        varied = varies(model, example, "batch")
    resize = resize_of(model, example, batch_norm)
    small = smallest(model, example, resize, batch_norm) if resize else example
    settings = [
        Setting(_plain_words(example, small, resize), small),
        *_batches(example, small, flow),
        *(other_sizes(example, small, resize, flow) if resize else ()),
        *_scaled(small, flow),
        *_masked(small),
        *_unbatched(model, small, batch_norm, flow),
        *_of_batch(model, example, small, resize, batch_norm),
        Setting("called again, with gradients", small, gradients=True),
    ]
    side = side_of(example, resize) if resize else 0
    refused = [*(() if resize else ("other sizes",)), *too_large(flow, side)]
    tried = (replace(each, batch_norm="batch") if batch_norm == "batch" else each for each in settings)
    exact = any(branch.kind == "value" for branch in flow)
    return Settings(tuple(tried), tuple(refused), varied, exact)


def on_exposed(settings: Settings) -> Settings:
    """The same settings, for a copy whose hiding weights are drawn anew."""
    tried = tuple(replace(setting, words=f"{setting.words}, {HIDING}") for setting in settings.tried)
    return replace(settings, tried=tried, refused=())


def _plain_words(example: Inputs, small: Inputs, resize: Resize | None) -> str:
    return f"size {side_of(small, resize)}" if resize and small is not example else "another call"


def _first(inputs: Inputs, count: int) -> Inputs:
    """The first inputs, over again where there are fewer, so that a batch of any size can be had."""
    return tuple(x[torch.arange(count, device=x.device) % len(x)] if x.dim() else x for x in inputs)


def _several(inputs: Inputs) -> Inputs:
    """As many inputs as statistics of a batch want, and fewer where they are large."""
    counts = (count for count in (SEVERAL, SEVERAL // 2) if _entries(inputs) * count < AFFORDABLE)
    return _first(inputs, next(counts, FEW))


def _entries(inputs: Inputs) -> int:
    return sum(math.prod(x.shape[1:]) for x in inputs)


def _of_batch(
    model: nn.Module, example: Inputs, small: Inputs, resize: Resize | None, batch_norm: BatchNormMode
) -> Iterator[Setting]:
    """Training mode; where a network doesn't run in it, its evaluation with the statistics of the batch."""
    # Of the smallest images the last layers see a pixel, over which statistics are taken badly.
    is_wide = resize is not None and _entries(small) * ENOUGH**2 < _entries(example)
    several = _several(resize(small, ENOUGH) if resize and is_wide else example)
    has_norms = any(True for _ in batch_norms(model))
    training = Setting("in training mode", several if has_norms else small, gradients=True, training=True)
    yield training
    if batch_norm == "fixed" and has_norms and not are_finite(called_in(model, model, training)):
        yield Setting("normalised by its own statistics", several, batch_norm="batch")


def _batches(example: Inputs, small: Inputs, flow: Iterable[Branch]) -> Iterator[Setting]:
    """One input, and many where images are small; what the code compares a batch with, on both sides."""
    affordable = _entries(small) * MANY <= MOST_PIXELS * FEW * _entries(example) or _entries(small) < 20_000
    counts = [1, MANY if affordable else SOME, *beyond(flow, FEW, MANY * 8)]
    for count in dict.fromkeys(counts):
        yield Setting(f"batch of {count}", _first(small, count))


def _scaled(inputs: Inputs, flow: Iterable[Branch]) -> Iterator[Setting]:
    if any(x.is_floating_point() for x in inputs):
        more = _FOR_VALUES if any(branch.kind == "value" for branch in flow) else {}
        for words, change in {**_SCALES, **more}.items():
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


def _unbatched(
    model: nn.Module, small: Inputs, batch_norm: BatchNormMode, flow: Iterable[Branch]
) -> Iterator[Setting]:
    """One input without its batch, where the code asks for the rank of its inputs and takes it so."""
    one = Setting(UNBATCHED, tuple(x[0] if x.dim() else x for x in small))
    ranks = {x.dim() for x in small}
    asks = any(branch.kind == "shape" and branch.size in ranks for branch in flow)
    if asks and batch_norm == "fixed" and _takes_unbatched(model, Setting("", small), one):
        yield one


def _takes_unbatched(model: nn.Module, plain: Setting, one: Setting) -> bool:
    """Tell whether outputs of one input are of the shapes of those in a batch, without the batch.

    Where they are not, another axis was taken for channels, and the network runs by accident.
    """
    outputs, alone = (called_in(model, model, each) for each in (plain, one))
    pairs = zip(tensors_of(outputs), tensors_of(alone), strict=False)
    return alone is not None and all(a.dim() > 0 and a.shape[1:] == b.shape for a, b in pairs)
