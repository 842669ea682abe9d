"""Which channels stay when a correction follows: those without which what reads them can be refitted best.

A group keeps as many channels as the scores say. Which ones is decided anew by the error that is left at the
layers that read them once these are refitted without the others: channels leave one after another, the one of
the least error first, as weights do in Optimal Brain Surgeon (Hassibi and Stork, 1993), blocks of them here.

Letters: C channels of a group, K columns of a channel at a layer, p columns of the layer in all, q outputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from structprune.channels import ChannelGroup, ChannelGroups
from structprune.nn.layers import BatchNorm, conv_groups, in_width
from structprune.pruning.budget import Plan
from structprune.reconstruction.im2col import (
    as_columns,
    bias_of,
    columns,
    draw_places,
    map_sizes,
    norm_scale,
    parts_of,
)
from structprune.reconstruction.normal_equations import RIDGE, Equations
from structprune.reconstruction.observed_pass import Arrived, Fit, Pass, run
from structprune.reconstruction.refittable_layers import Reader

MOST_COLUMNS = 2400
"""Of a layer whose equations are inverted; groups that wider ones read stay as they were chosen."""
ROWS, LEAST_ROWS = 4, 2**14
"""Times as many rows as columns set up the equations, or so many, whichever is more."""
PRODUCT_BYTES = 2**29
"""Of equations that are held at once."""


def rechosen(fit: Fit, groups: ChannelGroups, plan: Plan, found: Sequence[Reader]) -> Plan:
    """Choose anew which channels stay of every group, as many as before.

    Groups stay as they were chosen where that can't be told: where something else than plain layers reads
    them, or grouped convolutions do, or their channels don't cost the same.

    Args:
        fit: the dense network and its inputs; the shrunk one is not used.
        groups: of the dense network.
        plan: what the scores chose.
        found: the layers of the dense network that can be refitted.
    """
    readers = {reader.name: reader for reader in found}
    cut = [group for group in groups if not plan.keep[group.name].all() and _is_plain(group, fit, readers)]
    keep = dict(plan.keep)
    for part in _parts(cut, fit):
        names = {row.layer for group in part for row in group.consumers}
        wanted = {reader.name: reader for reader in found if reader.name in names}
        products = _products(fit, wanted)
        for group in part:
            read = [
                _Read(products[name], _weight(fit, wanted[name]), columns_CK)
                for name, columns_CK in _columns(group, fit).items()
            ]
            keep[group.name] = kept_of(read, int(plan.keep[group.name].sum()))
    return replace(plan, keep=keep)


def _is_plain(group: ChannelGroup, fit: Fit, readers: Mapping[str, Reader]) -> bool:
    layers = {row.layer: fit.dense.get_submodule(row.layer) for row in group.consumers}
    if not layers or group.divisor != 1 or len(set(group.costs)) != 1 or not layers.keys() <= readers.keys():
        return False
    if any(conv_groups(m) > 1 or as_columns(m).shape[1] > MOST_COLUMNS for m in layers.values()):
        return False
    return all(len(set(map(len, _inputs(group, name)))) == 1 for name in layers)


def _inputs(group: ChannelGroup, layer: str) -> list[list[int]]:
    """For every channel of the group, the inputs of a layer that carry it."""
    found: dict[int, list[int]] = defaultdict(list)
    for row in group.consumers:
        if row.layer == layer:
            for channel, gate in zip(row.channels, row.gates, strict=True):
                found[gate].append(channel)
    return [found[gate] for gate in range(group.size)]


def _columns(group: ChannelGroup, fit: Fit) -> dict[str, Tensor]:
    """Return layer -> (C, K) the columns of each channel, for every layer that reads the group."""
    found = {}
    for name in dict.fromkeys(row.layer for row in group.consumers):
        layer = fit.dense.get_submodule(name)
        inputs_CI = torch.tensor(_inputs(group, name))
        kernel = as_columns(layer).shape[1] // in_width(layer)
        found[name] = (inputs_CI.unsqueeze(2) * kernel + torch.arange(kernel)).flatten(1)
    return found


def _parts(groups: Sequence[ChannelGroup], fit: Fit) -> Iterator[list[ChannelGroup]]:
    """Split groups so that the equations of a part fit into memory."""
    part: list[ChannelGroup] = []
    held = 0
    for group in groups:
        names = {row.layer for row in group.consumers}
        size = sum(8 * as_columns(fit.dense.get_submodule(name)).shape[1] ** 2 for name in names)
        if part and held + size > PRODUCT_BYTES:
            yield part
            part, held = [], 0
        part.append(group)
        held += size
    if part:
        yield part


def _weight(fit: Fit, reader: Reader) -> Tensor:
    """Return a layer's weight (p, q), outputs scaled as the batch norm behind it scales them."""
    w_pq = as_columns(fit.dense.get_submodule(reader.name))[0].double()
    norm = None if reader.norm is None else fit.dense.get_submodule(reader.norm)
    return w_pq * norm_scale(norm).double() if isinstance(norm, BatchNorm) else w_pq


# ---- what the layers read


class _Reading(Pass):
    """The dense network's pass, which sums up what layers read."""

    def __init__(self, fit: Fit, wanted: Mapping[str, Reader]) -> None:
        super().__init__(fit, fit.dense, wanted)
        self.generator = Generator().manual_seed(fit.seed)
        self.inputs: dict[str, Tensor] = {}
        self.equations: dict[str, Equations] = {}
        self.pending = set(wanted)

    def closes(self, reader: Reader) -> bool:
        return False

    def reads(self, reader: Reader, layer: nn.Module, x: Tensor) -> None:
        self.inputs[reader.name] = x

    def _most(self, layer: nn.Module) -> int:
        samples = sum(len(chunk[0]) for chunk in self.fit.chunks)
        enough = max(ROWS * as_columns(layer).shape[1], LEAST_ROWS)
        return max(1, min(self.fit.places, enough // samples))

    def writes(self, reader: Reader, layer: nn.Module, y: Tensor) -> None:
        x, sizes = self.inputs.pop(reader.name), map_sizes(layer, y)
        places = draw_places(len(y), sizes, self._most(layer), self.generator)
        offset = bias_of(layer) is not None or reader.norm is not None
        equations = self.equations.setdefault(reader.name, Equations(offset))
        for part in parts_of(layer, places):
            rows = columns(layer, x[part], places[part], sizes)
            equations.add(rows, rows.new_zeros(1, rows.shape[1], 1))
        self.pending.discard(reader.name)
        if not self.pending:
            self.pending = set(self.wanted)
            raise Arrived


def _products(fit: Fit, wanted: Mapping[str, Reader]) -> dict[str, Tensor]:
    """Return layer -> (p, p) products of its columns, around their means where it has an offset."""
    reading = _Reading(fit, wanted)
    for chunk in fit.chunks:
        run(reading, chunk)
    return {name: equations.products()[0] for name, equations in reading.equations.items()}


# ---- which channels go


class _Read:
    """A layer that reads a group, while channels leave.

    The inverse of the products of the columns that are left is inverse - factor factor^T. Of it only the
    channels' own blocks are kept up to date, which makes a channel's leaving cheap in a wide layer.

    Attributes:
        inverse_pp: of the products of all columns, with a ridge.
        factor_pr: what every leaving so far has taken from it.
        blocks_CKK: of what is left, each channel's own.
        weight_pq: refitted to the columns that are left.
        columns_CK: of each channel.
        size: of what the layer writes, by which errors of several layers compare.
    """

    def __init__(self, products_pp: Tensor, weight_pq: Tensor, columns_CK: Tensor) -> None:
        tiny = torch.finfo(products_pp.dtype).tiny
        self.size = float((weight_pq * (products_pp @ weight_pq)).sum()) or tiny
        shift_p = (RIDGE * products_pp.diagonal().mean().clamp_min(tiny)).expand(len(products_pp))
        self.inverse_pp = torch.cholesky_inverse(torch.linalg.cholesky(products_pp + shift_p.diag()))
        self.blocks_CKK = self.inverse_pp[columns_CK.unsqueeze(2), columns_CK.unsqueeze(1)]
        self.factor_pr = products_pp.new_zeros(len(products_pp), columns_CK.numel())
        self.weight_pq, self.columns_CK, self.taken = weight_pq.clone(), columns_CK, 0

    def errors(self) -> Tensor:
        """Return what each channel's leaving adds to the squared error, after refitting, (C,)."""
        w_CKq = self.weight_pq[self.columns_CK]
        found: Tensor = (w_CKq * torch.linalg.solve(self.blocks_CKK, w_CKq)).sum((1, 2))
        return found / self.size

    def leave(self, channel: int) -> None:
        """Refit without a channel: a step of elimination on the inverse."""
        own, block = self.columns_CK[channel], self.blocks_CKK[channel]
        before_pr = self.factor_pr[:, : self.taken]
        across_pK = self.inverse_pp[:, own] - before_pr @ before_pr[own].T
        self.weight_pq -= across_pK @ torch.linalg.solve(block, self.weight_pq[own])
        self.weight_pq[own] = 0
        # across block^-1 across^T = f f^T, with block = l l^T and f = across l^-T
        f_pK = torch.linalg.solve_triangular(torch.linalg.cholesky(block), across_pK.T, upper=False).T
        self.factor_pr[:, self.taken : self.taken + len(own)] = f_pK
        self.taken += len(own)
        f_CKK = f_pK[self.columns_CK]
        self.blocks_CKK -= f_CKK @ f_CKK.mT
        self.blocks_CKK[channel] = torch.eye(len(own)).to(block)


def kept_of(read: Sequence[_Read], count: int) -> Tensor:
    """Let channels leave until ``count`` are left, each time that of the least error; (C,) bool."""
    keep = torch.ones(len(read[0].columns_CK), dtype=torch.bool)
    for _ in range(len(keep) - count):
        errors_C = torch.stack([layer.errors() for layer in read]).sum(0).cpu()
        channel = int(errors_C.masked_fill(~keep, torch.inf).argmin())
        keep[channel] = False
        for layer in read:
            layer.leave(channel)
    return keep
