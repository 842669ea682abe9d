"""Influence of groups: a group whose closed gates change nothing has shown nothing.

Zero-initialised norms, ReZero and LayerScale hide whole branches of an untrained network, and a wrong cut in
there shows only once training has opened them. So what hides them is drawn anew, on copies, until every group
has a say.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups
from structprune.nn.layers import batch_norms
from structprune.nn.outputs import tensors_of
from structprune.nn.precision import exact_arithmetic, in_precision
from structprune.nn.reinit import normal, reinitialised
from structprune.proofs.comparison.calls import Setting, called_in, cast
from structprune.proofs.comparison.gap import gap
from structprune.proofs.comparison.settings import Settings, on_exposed
from structprune.pruning.gates import GatedModel, gate_channels

WEAK = 1e-3
"""Influence below which a group may be hidden, as a share of the strongest group's."""

FAINT = 1e-5
"""The same share below which float32 does not see a wrong cut, even of a group that nothing hides."""

TINY = 1e-2
"""Size below which a scale hides what it multiplies."""

SILENT = 1e-6
"""max|a - b| / max|b| in float64 below which closed gates show too little to see a wrong cut by."""


@dataclass(frozen=True)
class Round:
    """A network and the settings in which its cuts are to be compared."""

    model: nn.Module
    settings: Settings


@dataclass(frozen=True)
class Exposure:
    """Networks on which all groups show.

    Attributes:
        rounds: the network itself, unless its outputs never vary, and copies with some parameters drawn anew
            where it hides groups; one at least is compared in every setting.
        silent: groups without influence on any of them.
    """

    rounds: tuple[Round, ...]
    silent: tuple[str, ...]


def exposed(model: nn.Module, groups: ChannelGroups, settings: Settings) -> Exposure:
    """Networks on which closing the gates of a group changes something, for every group.

    Args:
        model: the network, in float32 or float64; it is left as it is.
        groups: its groups.
        settings: in which it is compared; a group that shows in any of them is shown.
    """
    few, cases = settings.few(), _cases(model, settings)
    shares = _shares(model, groups, cases if settings.varied else ())
    hidden = bool(_below(FAINT, shares))
    drawn = []
    if any(bool(_hides(name, x).any()) for name, x in model.named_parameters()):
        drawn.append(Round(revealed(model), on_exposed(settings if hidden else few)))
        if _below(WEAK, shares):
            shares = _largest(shares, _shares(drawn[-1].model, groups, cases))
    if faint := _below(FAINT, shares):
        redrawn = reinitialised(
            model, lambda net: not _below(FAINT, _shares(reveal(net), groups, cases)) & faint
        )
        drawn.append(Round(redrawn, on_exposed(settings)))
        shares = _largest(shares, _shares(redrawn, groups, cases))
    original = Round(model, few if hidden and drawn else settings)
    silent = _silent(groups, [model, *(each.model for each in drawn)], _below(FAINT, shares), cases)
    return Exposure((original, *drawn) if settings.varied or not drawn else tuple(drawn), silent)


def _cases(model: nn.Module, settings: Settings) -> Sequence[Setting]:
    """A plain call, and those in which other layers may have a say since the batch normalises itself."""
    has_norms = any(True for _ in batch_norms(model))
    return (settings.tried[0], *(settings.of_batch().tried if has_norms else ()))


def _silent(
    groups: ChannelGroups, models: Sequence[nn.Module], hidden: set[str], cases: Sequence[Setting]
) -> tuple[str, ...]:
    """Of hidden groups those whose closing shows on none of the networks, in no case."""
    for net in models if hidden else ():
        exact = in_precision(copy.deepcopy(net), torch.float64)
        for case in (cast(each, torch.float64) for each in cases):
            hidden = {name for name in hidden if _is_silent(exact, groups, name, case)}
    return tuple(group.name for group in groups if group.name in hidden)


def revealed(model: nn.Module) -> nn.Module:
    """A copy of a network in which scales near zero and weights of nothing but zeros are drawn anew."""
    return reveal(copy.deepcopy(model))


def reveal(model: nn.Module) -> nn.Module:
    """Draw scales near zero and weights of nothing but zeros anew, in place; return the network."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in model.named_parameters():
            hides = _hides(name, x)
            if hides.any():
                fan_in = math.prod(x.shape[1:])
                drawn = normal(x, (2 / fan_in) ** 0.5 if not _is_scale(x) else 0.25, generator)
                x.copy_(torch.where(hides, 1 + drawn if _is_scale(x) else drawn, x))
    return model


def _hides(name: str, x: Tensor) -> Tensor:
    """Entries of a parameter that keep what they multiply from showing, as bool of its shape or of none."""
    if not x.is_floating_point() or not x.numel() or "bias" in name.rpartition(".")[2]:
        return torch.tensor(False)
    if _is_scale(x):
        return x.abs() < TINY
    few = x.detach().reshape(-1)[:1000]  # of a large weight, enough to tell that it hides nothing
    hides = bool(few.abs().max() < 1e-6) and bool(x.abs().max() < 1e-6)
    return torch.tensor(hides, device=x.device).expand(x.shape)


def _is_scale(x: Tensor) -> bool:
    """Tell whether a parameter has a number a channel, or one in all."""
    return x.numel() == max(x.shape, default=1)


def _shares(model: nn.Module, groups: ChannelGroups, cases: Sequence[Setting]) -> Mapping[str, float]:
    """Influence of groups as shares of the strongest one's, by derivatives; the largest of any case."""
    shares = dict.fromkeys((group.name for group in groups), 0.0)
    for case in cases:
        if _below(WEAK, shares):
            strengths = _derivatives(model, groups, case)
            most = max(strengths.values(), default=0.0)
            of_case = {name: x / most if 0 < most < math.inf else 0.0 for name, x in strengths.items()}
            shares = _largest(shares, of_case)
    return shares


def _largest(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: max(x, b[name]) for name, x in a.items()}


def _below(bound: float, shares: Mapping[str, float]) -> set[str]:
    return {name for name, share in shares.items() if not share > bound}


def _derivatives(model: nn.Module, groups: ChannelGroups, setting: Setting) -> Mapping[str, float]:
    """Derivatives of a random sum of the outputs by a group's gates, in all; zero where there are none."""
    model = copy.deepcopy(model)  # which may keep a result, and with it a graph that nobody can copy
    gated = gate_channels(model, groups)
    gates = gated.ones()
    outputs = called_in(model, lambda *x: gated(gates, x), replace(setting, gradients=True))
    total = sum(_random_sum(x) for x in tensors_of(outputs) if x.requires_grad)
    if not isinstance(total, Tensor) or not gates:
        return dict.fromkeys(gates, 0.0)
    with exact_arithmetic():  # for the way back, too
        slopes = torch.autograd.grad(total, tuple(gates.values()), allow_unused=True)
    return {
        name: 0.0 if slope is None else float(slope.abs().sum())
        for name, slope in zip(gates, slopes, strict=True)
    }


def _random_sum(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(x.shape, generator=generator).to(x.device)
    return ((torch.view_as_real(x).sum(-1) if x.is_complex() else x) * signs).sum()


def _is_silent(model: nn.Module, groups: ChannelGroups, name: str, setting: Setting) -> bool:
    """Tell whether closing half of a group's gates, or the others, changes no output."""
    gated = gate_channels(model, groups)
    outputs = called_in(model, lambda *x: gated(gated.ones(False), x), setting)
    return outputs is not None and all(
        _unchanged(model, gated, gates, setting, outputs) for gates in _halves(gated, name)
    )


def _unchanged(
    model: nn.Module, gated: GatedModel, gates: Mapping[str, Tensor], setting: Setting, outputs: object
) -> bool:
    closed = called_in(model, lambda *x: gated(gates, x), setting)
    return closed is None or gap(closed, outputs).error < SILENT


def _halves(gated: GatedModel, name: str) -> Iterator[Mapping[str, Tensor]]:
    for first in (0, 1):
        gates = gated.ones(requires_grad=False)
        gates[name][first::2] = 0
        yield gates
