"""The data: which layers write, carry and read a channel, by name and index of the dense network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from structprune.report.data import Branch, Protected


@dataclass(frozen=True)
class Coupling:
    """Where one layer meets the channels of a group.

    Attributes:
        layer: the layer's name in the model.
        channels: the layer's own input or output indices.
        gates: for each of them, the channel of the group that it carries. A flatten in front of a linear
            layer gives one gate to several inputs; a concat gives the layer only some of its inputs.
    """

    layer: str
    channels: tuple[int, ...]
    gates: tuple[int, ...]


@dataclass(frozen=True)
class ExtraParameter:
    """Where a parameter or buffer that belongs to no layer of these kinds meets the channels of a group.

    Attributes:
        tensor: its name in the model.
        dim: the dimension along which the channels lie.
        channels: indices along it.
        gates: for each of them, the channel of the group that it carries.
    """

    tensor: str
    dim: int
    channels: tuple[int, ...]
    gates: tuple[int, ...]


@dataclass(frozen=True)
class SizeAttribute:
    """An attribute that counts the channels of a group: heads of an attention, groups of a norm, a width.

    Attributes:
        module: the module's name in the model.
        attribute: the attribute's name.
        channels: what it counts, numbered; others that it counts are another group's, or stay.
        gates: for each of them, the channel of the group that it is.
        index: which number it is, where the attribute holds a list or tuple of them.
    """

    module: str
    attribute: str
    channels: tuple[int, ...]
    gates: tuple[int, ...]
    index: int | None = None


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that leave together from every layer that writes, carries or reads them.

    Attributes:
        name: that of the first layer that produces the channels.
        size: number of channels, C.
        producers: conv and linear layers that write the channels (depthwise ones too): a channel costs
            one node for each.
        consumers: conv and linear layers that read them; here sit the gates.
        carriers: layers in between with an entry per channel: batch norms, PReLUs.
        divisor: channels leave in multiples of it, the same number in each contiguous C / divisor block
            (the least common multiple of the numbers of conv groups among the layers).
        loose: parameters and buffers of no such layer with an entry per channel.
        sizes: attributes of modules that count the channels.
        least: how many channels stay at least: a LayerNorm of one puts out a constant.
    """

    name: str
    size: int
    producers: tuple[Coupling, ...]
    consumers: tuple[Coupling, ...]
    carriers: tuple[Coupling, ...] = ()
    divisor: int = 1
    loose: tuple[ExtraParameter, ...] = ()
    sizes: tuple[SizeAttribute, ...] = ()
    least: int = 1

    @cached_property
    def costs(self) -> tuple[int, ...]:
        """Nodes that leave with each channel, C entries."""
        nodes = [0] * self.size
        for producer in self.producers:
            for gate in producer.gates:
                nodes[gate] += 1
        return tuple(nodes)


@dataclass(frozen=True)
class ChannelGroups:
    """The groups of a network, and what is not in any.

    Attributes:
        groups: every group that can be cut.
        protected: layers whose outputs are never cut, with the reason.
        widths: layer -> outputs, of every layer that has nodes: all conv and linear layers but those
            that produce the network's outputs.
        outputs: layers that produce the network's outputs.
        control_flow: where the network's code asks for sizes, values or its mode, in the order of a pass;
            empty
            where nobody watched one.
    """

    groups: tuple[ChannelGroup, ...]
    protected: tuple[Protected, ...]
    widths: Mapping[str, int]
    outputs: tuple[str, ...]
    control_flow: tuple[Branch, ...] = ()

    @property
    def nodes(self) -> int:
        """Number of nodes: output channels and units of every layer in ``widths``."""
        return sum(self.widths.values())

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> ChannelGroup:
        return self.groups[index]

    def without(self, reasons: Mapping[str, str]) -> ChannelGroups:
        """Return the same with some groups protected.

        Args:
            reasons: group name -> why it must not be cut.
        """
        kept = tuple(group for group in self.groups if group.name not in reasons)
        if len(kept) == len(self.groups):
            return self
        cut = {producer.layer for group in kept for producer in group.producers}
        fallen = [
            Protected(producer.layer, reasons[group.name])
            for group in self.groups
            if group.name in reasons
            for producer in group.producers
            if producer.layer not in cut
        ]
        return replace(self, groups=kept, protected=(*self.protected, *fallen))
