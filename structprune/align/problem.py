"""What a choice of widths is about: options of every group, and the time of all layers at any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from structprune.align.layer_times import LayerCall, Numbers, layer_us
from structprune.budget import Step
from structprune.channels import ChannelGroup, ChannelGroups, Coupling
from structprune.device_profile import DeviceProfile
from structprune.layers import in_width, node_layers, out_width

Choice = npt.NDArray[np.int64]
"""For every group which of its options is taken."""


@dataclass(frozen=True)
class Options:
    """Widths that a group may have, the widest first; K entries each.

    Attributes:
        steps: how many of the group's removal steps leave.
        width: channels that stay.
        nodes: nodes that stay.
        kept: the score that stays.
        divisor: blocks of the group that stay of equal width.
    """

    steps: npt.NDArray[np.int64]
    width: Numbers
    nodes: npt.NDArray[np.int64]
    kept: Numbers
    divisor: int = 1


@dataclass(frozen=True)
class Side:
    """Channels on one side of a layer: some that always stay, and so many for each channel of a group."""

    fixed: float
    groups: tuple[tuple[int, float], ...]

    def width(self, widths_G: Numbers) -> float:
        """Return the width where the groups have these."""
        return float(round(self.fixed + sum(widths_G[group] * times for group, times in self.groups)))


@dataclass(frozen=True)
class Timed:
    """A layer with what its width depends on."""

    call: LayerCall
    inputs: Side
    outputs: Side


@dataclass(frozen=True)
class Layers:
    """The layers of a network and the device that they run on: whatever the scores, their times are these.

    Attributes:
        profile: of the device.
        timed: layers in the order of the pass.
        touching: for every group the layers whose time depends on it.
    """

    profile: DeviceProfile
    timed: tuple[Timed, ...]
    touching: tuple[tuple[int, ...], ...]

    def us(self, widths_G: Numbers) -> float:
        """Return the microseconds of all layers together."""
        return float(sum(self.each_us(layer, widths_G)[0] for layer in range(len(self.timed))))

    def each_us(self, layer: int, widths_G: Numbers) -> Numbers:
        """Return the microseconds of one layer, as an array of one."""
        row = self.timed[layer]
        sides = (np.array([side.width(widths_G)]) for side in (row.inputs, row.outputs))
        return layer_us(self.profile, row.call, *sides)

    def along(self, group: int, widths_G: Numbers, width_K: Numbers) -> Numbers:
        """Return the microseconds of the layers that touch a group, for each width that it might have."""
        total_K = np.zeros_like(width_K)
        for layer in self.touching[group]:
            row = self.timed[layer]
            sides = (_along(side, group, widths_G, width_K) for side in (row.inputs, row.outputs))
            total_K = total_K + layer_us(self.profile, row.call, *sides)
        return total_K


def _along(side: Side, group: int, widths_G: Numbers, width_K: Numbers) -> Numbers:
    times = sum(times for other, times in side.groups if other == group)
    rest = side.fixed + sum(widths_G[g] * each for g, each in side.groups if g != group)
    return np.asarray(np.round(rest + times * width_K), dtype=np.float64)


def layers_of(
    model: nn.Module, groups: ChannelGroups, calls: Sequence[LayerCall], profile: DeviceProfile
) -> Layers:
    """Put together how the time of each layer depends on the widths of the groups."""
    layers = dict(node_layers(model))
    inputs, outputs = _sides(groups, "consumers"), _sides(groups, "producers")
    timed = tuple(
        Timed(
            call,
            _side(in_width(layers[call.layer]), inputs[call.layer]),
            _side(out_width(layers[call.layer]), outputs[call.layer]),
        )
        for call in calls
    )
    touching: list[list[int]] = [[] for _ in groups]
    for i, row in enumerate(timed):
        for group in dict.fromkeys(g for side in (row.inputs, row.outputs) for g, _ in side.groups):
            touching[group].append(i)
    return Layers(profile, timed, tuple(map(tuple, touching)))


def _sides(groups: ChannelGroups, side: str) -> Mapping[str, list[tuple[int, Coupling, int]]]:
    """Return layer -> (number of the group, where they meet, the group's size)."""
    found: dict[str, list[tuple[int, Coupling, int]]] = defaultdict(list)
    for number, group in enumerate(groups):
        for coupling in group.producers if side == "producers" else group.consumers:
            found[coupling.layer].append((number, coupling, group.size))
    return found


def _side(width: int, met: Sequence[tuple[int, Coupling, int]]) -> Side:
    fixed = width - sum(len(coupling.channels) for _, coupling, _ in met)
    return Side(max(fixed, 0), tuple((group, len(c.channels) / size) for group, c, size in met))


def options_of(
    group: ChannelGroup, steps: Sequence[Step], least: int, narrowest: float, scores_C: Tensor
) -> Options:
    """Return every width from where ``least`` of a group's steps have left down to the narrowest."""
    finite = scores_C[scores_C.isfinite()].double()
    left = [sum(group.costs)]
    kept = [float(finite.sum())]
    width = [group.size]
    for step in steps:
        left.append(left[-1] - step.cost)
        width.append(width[-1] - len(step.channels))
        scores = scores_C[list(step.channels)].double()
        kept.append(kept[-1] - float(scores[scores.isfinite()].sum()))
    end = max(least + 1, sum(w >= narrowest for w in width))
    return Options(
        np.arange(least, end),
        np.array(width[least:end], dtype=np.float64),
        np.array(left[least:end]),
        np.array(kept[least:end]),
        group.divisor,
    )


@dataclass(frozen=True)
class Problem:
    """Widths to be chosen: the layers, and each group's options."""

    layers: Layers
    options: tuple[Options, ...]

    def widths(self, choice: Choice) -> Numbers:
        """Return the width of every group."""
        return np.array([o.width[k] for o, k in zip(self.options, choice, strict=True)])

    def nodes(self, choice: Choice) -> int:
        """Return how many nodes of the groups stay."""
        return int(sum(o.nodes[k] for o, k in zip(self.options, choice, strict=True)))

    def kept(self, choice: Choice) -> float:
        """Return the score that stays."""
        return float(sum(o.kept[k] for o, k in zip(self.options, choice, strict=True)))

    def us(self, choice: Choice) -> float:
        """Return the microseconds of all layers."""
        return self.layers.us(self.widths(choice))
