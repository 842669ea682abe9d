"""What a network has before and after a cut: widths, weights, layers left whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from structprune.nn.layers import (
    node_layers,
    out_width,
    weight_of,
    weighted_layers,
)


def widths(dense: nn.Module, small: nn.Module) -> dict[str, tuple[int, int]]:
    """Return layer -> (outputs before, outputs after) of every layer that has nodes."""
    after = dict(node_layers(small))
    return {name: (out_width(layer), out_width(after[name])) for name, layer in node_layers(dense)}


def weight_entries(model: nn.Module) -> int:
    """Return the number of entries of conv and linear weights."""
    return sum(weight_of(layer).numel() for _, layer in weighted_layers(model))


def untouched(dense: nn.Module, small: nn.Module, protected: Mapping[str, str]) -> Iterator[str]:
    """Yield the layers that kept every output and are not protected."""
    for name, (before, after) in widths(dense, small).items():
        if before == after and name not in protected:
            yield name
