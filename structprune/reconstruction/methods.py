"""A cut network mended on unlabelled inputs, and kept only where that brings it nearer to the dense one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_leaves

from structprune.channels import ChannelGroups
from structprune.errors import UsageError
from structprune.nn.batch_norm import evaluating
from structprune.nn.layers import out_width
from structprune.nn.precision import exact_arithmetic
from structprune.pruning.budget import Plan
from structprune.pruning.surgery import cuts
from structprune.reconstruction.batch_norm import recalibrate
from structprune.reconstruction.channel_selection import rechosen
from structprune.reconstruction.least_squares import refit
from structprune.reconstruction.observed_pass import Fit
from structprune.reconstruction.refittable_layers import Reader, readers

Inputs = tuple[Tensor, ...]

FITTED = 512
HELD_OUT = 128
FEWEST = 8
"""Inputs that fit, at most; that judge, at most; in all, at least."""
WATCHED = 2
CHUNK_BYTES = 2**28


@dataclass(frozen=True)
class Reconstruction:
    """How a cut network is mended.

    Attributes:
        method: ``least-squares`` or ``batch-norm``.
        fitted: inputs, (N, ...) each, that the network is mended on.
        held_out: others, that say whether it came nearer to the dense one.
        rechooses: whether channels are chosen anew within each group, as those with which layers can be
            refitted best.
    """

    method: str
    fitted: Inputs
    held_out: Inputs
    rechooses: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"unknown correction {self.method!r}; known: {', '.join(METHODS)}")


@dataclass(frozen=True)
class Reconstructed:
    """What became of a cut network.

    Attributes:
        model: the mended network, or the very one that was cut.
        changed: names of the layers that were changed; none where it stays as it was cut.
        note: what a reader of the report must know, or None where nothing was cut.
    """

    model: nn.Module
    changed: tuple[str, ...] = ()
    note: str | None = None


def reconstruction_on(method: str, inputs: Inputs, seed: int = 0, rechooses: bool = False) -> Reconstruction:
    """Split unlabelled inputs into those that mend, 512 at most, and those that judge it.

    Raises:
        UsageError: there is no such method, or there are too few inputs.
    """
    count = len(inputs[0])
    if count < FEWEST:
        raise UsageError(
            f"{count} inputs are too few to mend a network on; give at least {FEWEST}, better {FITTED}"
        )
    order = torch.randperm(count, generator=Generator().manual_seed(seed))
    held = min(HELD_OUT, count // 5)
    parts = (order[held : held + FITTED], order[:held])
    fitted, held_out = (tuple(x[part.to(x.device)] for x in inputs) for part in parts)
    return Reconstruction(method, fitted, held_out, rechooses)


def reconstruct(
    dense: nn.Module, small: nn.Module, groups: ChannelGroups, plan: Plan, correction: Reconstruction
) -> Reconstructed:
    """Mend a network right after a cut, without labels and without training.

    Args:
        dense: the network before the cut; it stays as it is.
        small: what :func:`structprune.pruning.surgery.shrink` made of it; it stays as it is too.
        groups: the groups that were cut.
        plan: what they kept.
        correction: how, and on which inputs.

    Returns:
        The mended network in evaluation mode, where it is nearer to the dense one than ``small`` on inputs
        that it was not mended on; else ``small``.
    """
    kept = kept_outputs(dense, groups, plan)
    if not kept:
        return Reconstructed(small)
    if not any(x.is_floating_point() for x in small.parameters()):
        return Reconstructed(small, note="not mended: its weights are no floating-point numbers")
    try:
        with _undisturbed(dense):
            return _mended(dense, small, kept, correction)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of a forward pass of anyone's, or of equations that have no solution
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return Reconstructed(small, note=f"not mended: {reason}")


def rechoose(dense: nn.Module, groups: ChannelGroups, plan: Plan, correction: Reconstruction) -> Plan:
    """Choose anew which channels stay of every group, as many as before, knowing that a correction follows.

    Args:
        dense: the network before the cut; it stays as it is.
        groups: its groups of channels.
        plan: how many stay of each, and which by the scores.
        correction: on which inputs, and whether.

    Returns:
        The plan, for groups where nothing better is known as it was.
    """
    if not correction.rechooses:
        return plan
    try:
        with _undisturbed(dense):
            whole = copy.deepcopy(dense).eval()
            found = readers(whole, tuple(x[:WATCHED] for x in correction.fitted))
            fit = Fit(whole, whole, {}, chunks(correction.fitted, found))
            return rechosen(fit, groups, plan, found)
    except torch.OutOfMemoryError:
        raise
    # Of a forward pass of anyone's, as mending will say, or of equations without a solution.
    except Exception:
        return plan


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Run forward passes without derivatives, and put torch's random state back."""
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), exact_arithmetic():
        yield


def _mended(
    dense: nn.Module, small: nn.Module, kept: Mapping[str, Tensor], correction: Reconstruction
) -> Reconstructed:
    whole, better = (copy.deepcopy(net).eval() for net in (dense, small))
    changed = METHODS[correction.method](whole, better, kept, correction.fitted)
    if not changed:
        return Reconstructed(small, note=f"not mended: nothing in it can be, by {correction.method}")
    reference = outputs(whole, correction.held_out)
    before = distance(outputs(copy.deepcopy(small).eval(), correction.held_out), reference)
    after = distance(outputs(better, correction.held_out), reference)
    judged = f"on {len(correction.held_out[0])} other inputs"
    if not after < before:
        note = f"{correction.method} would take outputs {after:.3g} of their spread away from the dense ones "
        return Reconstructed(small, note=f"not mended: {note}{judged}, the cut leaves them at {before:.3g}")
    note = (
        f"mended by {correction.method}, {len(changed)} layers on {len(correction.fitted[0])} inputs: "
        f"outputs are {after:.3g} of their spread away from the dense ones {judged}, {before:.3g} before"
    )
    return Reconstructed(better, tuple(changed), note)


def kept_outputs(dense: nn.Module, groups: ChannelGroups, plan: Plan) -> dict[str, Tensor]:
    """Return layer -> which outputs of the dense layer stay, for every layer that loses some."""
    layers = dict(dense.named_modules())
    return {
        name: torch.tensor([c for c in range(out_width(layers[name])) if c not in gone])
        for name, gone in cuts(groups, plan, "producers").items()
    }


# ---- the methods


def _least_squares(
    dense: nn.Module, small: nn.Module, kept: Mapping[str, Tensor], inputs: Inputs
) -> list[str]:
    few = tuple(x[:WATCHED] for x in inputs)
    found = readers(small, few)
    # Only what runs once in both, by a weight of its own, writes what the other one's layer writes.
    alike = {reader.name: reader for reader in readers(dense, few)}
    found = [
        replace(reader, closes=reader.closes and alike[reader.name].closes)
        for reader in found
        if reader.name in alike
    ]
    return refit(Fit(dense, small, kept, chunks(inputs, [*found, *alike.values()])), found)


def _batch_norm(dense: nn.Module, small: nn.Module, kept: Mapping[str, Tensor], inputs: Inputs) -> list[str]:
    return recalibrate(small, inputs)


METHODS: Mapping[str, Callable[[nn.Module, nn.Module, Mapping[str, Tensor], Inputs], list[str]]] = {
    "least-squares": _least_squares,
    "batch-norm": _batch_norm,
}
"""Name -> what mends a copy of the cut network in place and names the layers that it changed."""


def chunks(inputs: Inputs, found: Sequence[Reader]) -> list[Inputs]:
    """Split inputs so that no layer's input or output is larger than 256 MB."""
    widest = 8 * max((max(reader.outputs, reader.inputs) for reader in found), default=1)
    size = max(1, CHUNK_BYTES // widest)
    return list(zip(*(torch.split(x, size) for x in inputs), strict=True))


# ---- how far networks are apart


def outputs(model: nn.Module, inputs: Inputs, at_once: int = 16) -> list[Tensor]:
    """Run a network on inputs in parts and return its outputs of floating-point numbers, joined."""
    parts = []
    with torch.no_grad(), evaluating(model):
        for part in zip(*(torch.split(x, at_once) for x in inputs), strict=True):
            leaves = tree_leaves(model(*part))
            parts.append([x.double() for x in leaves if isinstance(x, Tensor) and x.is_floating_point()])
    return [torch.cat([x.flatten() for x in leaf]) for leaf in zip(*parts, strict=True)]


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Return the root of the mean square of a - b over that of b around its mean; of several the mean.

    NaN where nothing can be compared.
    """
    found = [_distance(x, y) for x, y in zip(a, b, strict=True) if bool(y.var(correction=0) > 0)]
    return sum(found) / len(found) if found else math.nan


def _distance(a: Tensor, b: Tensor) -> float:
    return float(((a - b).square().mean() / b.var(correction=0)).sqrt())
