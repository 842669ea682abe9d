"""What a choice of widths is about: options of every group, and the time of all layers at any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from structprune.channels import ChannelGroup, ChannelGroups
from structprune.hardware.layer_times import LayerCall, Numbers, Shapes, layer_us, stacked
from structprune.hardware.profile import DeviceProfile
from structprune.nn.layers import in_width, node_layers, out_width
from structprune.pruning.budget import Step

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
    """One side of L layers: channels (L,) that always stay, and so many (L, G) for each of a group."""

    fixed: Numbers
    times: Numbers

    def width(self, widths_G: Numbers) -> Numbers:
        """Return the widths (L, 1) where the groups have these."""
        return np.asarray(np.round(self.fixed + self.times @ widths_G)[:, None], dtype=np.float64)

    def along(self, group: int, widths_G: Numbers, width_K: Numbers) -> Numbers:
        """Return the widths (L, K) where one group has each of its own in turn."""
        times_L = self.times[:, group]
        rest_L = self.fixed + self.times @ widths_G - times_L * widths_G[group]
        return np.asarray(np.round(rest_L[:, None] + times_L[:, None] * width_K), dtype=np.float64)

    def of(self, rows: Sequence[int]) -> Side:
        """Return the same of some of the layers."""
        return Side(self.fixed[list(rows)], self.times[list(rows)])


@dataclass(frozen=True)
class Batch:
    """Layers that one kernel runs, with what their widths depend on."""

    shapes: Shapes
    inputs: Side
    outputs: Side


@dataclass(frozen=True)
class Layers:
    """The layers of a network and the device that they run on: whatever the scores, their times are these.

    Attributes:
        profile: of the device.
        batches: the layers, those of one kind together.
        touching: for every group the layers whose time depends on it.
    """

    profile: DeviceProfile
    batches: tuple[Batch, ...]
    touching: tuple[tuple[Batch, ...], ...]

    def us(self, widths_G: Numbers) -> float:
        """Return the microseconds of all layers together."""
        each = (
            layer_us(self.profile, b.shapes, b.inputs.width(widths_G), b.outputs.width(widths_G))
            for b in self.batches
        )
        return float(sum(us_L1.sum() for us_L1 in each))

    def along(self, group: int, widths_G: Numbers, width_K: Numbers) -> Numbers:
        """Return the microseconds of the layers that touch a group, for each width that it might have."""
        total_K = np.zeros_like(width_K)
        for batch in self.touching[group]:
            sides = (side.along(group, widths_G, width_K) for side in (batch.inputs, batch.outputs))
            total_K = total_K + layer_us(self.profile, batch.shapes, *sides).sum(axis=0)
        return total_K


def layers_of(
    model: nn.Module, groups: ChannelGroups, calls: Sequence[LayerCall], profile: DeviceProfile
) -> Layers:
    """Put together how the time of each layer depends on the widths of the groups."""
    layers = dict(node_layers(model))
    sides = (
        _side(calls, {name: in_width(layer) for name, layer in layers.items()}, groups, "consumers"),
        _side(calls, {name: out_width(layer) for name, layer in layers.items()}, groups, "producers"),
    )
    met_LG = (sides[0].times + sides[1].times) > 0
    touching = (_batches(calls, sides, np.flatnonzero(met_LG[:, g]).tolist()) for g in range(len(groups)))
    return Layers(profile, _batches(calls, sides, range(len(calls))), tuple(touching))


def _side(calls: Sequence[LayerCall], widths: Mapping[str, int], groups: ChannelGroups, side: str) -> Side:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, call in enumerate(calls):
        rows[call.layer].append(row)
    fixed_L = np.array([widths[call.layer] for call in calls], dtype=np.float64)
    times_LG = np.zeros((len(calls), len(groups)))
    for number, group in enumerate(groups):
        for coupling in group.producers if side == "producers" else group.consumers:
            fixed_L[rows[coupling.layer]] -= len(coupling.channels)
            # A flatten gives one channel to several inputs, a concat only some of them to a layer.
            times_LG[rows[coupling.layer], number] += len(coupling.channels) / group.size
    return Side(np.maximum(fixed_L, 0), times_LG)


def _batches(calls: Sequence[LayerCall], sides: Sequence[Side], rows: Sequence[int]) -> tuple[Batch, ...]:
    by_kernel: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for row in rows:
        by_kernel[calls[row].kind, calls[row].stepped].append(row)
    return tuple(
        Batch(stacked([calls[row] for row in some]), *(side.of(some) for side in sides))
        for some in by_kernel.values()
    )


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
