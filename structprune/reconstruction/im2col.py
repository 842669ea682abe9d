"""What a linear or conv layer multiplies by its weights, as plain columns: a row for every place it writes.

Letters: N samples, P places of a sample, I inputs and O outputs of a layer, G conv groups, K entries of the
kernel, S places of a map laid flat, n = N P rows, p = (I / G) K columns, q = O / G outputs of a group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from structprune.nn.layers import BatchNorm, Conv, ConvTranspose, conv_groups, weight_of

PART_ENTRIES = 2**22
"""Of columns that are laid out at once."""


def draw_places(count: int, sizes: Sequence[int], most: int, generator: Generator) -> Tensor:
    """Draw places of maps of these sizes, for every one of ``count`` samples its own, none twice; (N, P)."""
    every = math.prod(sizes)
    if every <= most:
        return torch.arange(every).expand(count, -1)
    return torch.rand(count, every, generator=generator).argsort(1)[:, :most]


def map_sizes(layer: nn.Module, y: Tensor) -> tuple[int, ...]:
    """Return the sizes of what a layer writes beside samples and channels: (H, W) of an image, tokens."""
    return tuple(y.shape[2:] if isinstance(layer, Conv) else y.shape[1:-1])


def is_batched(layer: nn.Module, x: Tensor) -> bool:
    """Tell whether an input has the dimension of samples in front."""
    return x.dim() == len(layer.kernel_size) + 2 if isinstance(layer, Conv) else x.dim() >= 2


def at_places(layer: nn.Module, y: Tensor, places_NP: Tensor) -> Tensor:
    """Return what a layer writes at some places, (N, P, O)."""
    flat_NOS = y.flatten(2) if isinstance(layer, Conv) else y.reshape(len(y), -1, y.shape[-1]).mT
    index = places_NP.to(y.device).unsqueeze(1).expand(-1, flat_NOS.shape[1], -1)
    return flat_NOS.gather(2, index).transpose(1, 2)


def columns(layer: nn.Module, x: Tensor, places_NP: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return what the weights multiply at some places of the output, (G, n, p), in the order of the weights.

    Args:
        layer: a linear layer, a convolution or a transposed one, of any stride, dilation, padding and groups.
        x: its input, (N, I, ...) or (N, ..., I).
        places_NP: which places of the output, laid flat.
        sizes: of the output, as :func:`map_sizes` returns them.
    """
    places_NP = places_NP.to(x.device)
    if not isinstance(layer, Conv):
        return at_places(layer, x, places_NP).flatten(0, 1).unsqueeze(0)
    sources_SK = _sources(layer, x.shape[2:], sizes).to(x.device)
    index_NPK = sources_SK[places_NP]
    padded_NIS = functional.pad(x.flatten(2), (0, 1))  # what lies outside reads the zero at the end
    index = index_NPK.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
    taken_NGIPK = padded_NIS.gather(2, index).reshape(len(x), layer.groups, -1, *index_NPK.shape[1:])
    columns_GNPIK = taken_NGIPK.permute(1, 0, 3, 2, 4)
    return columns_GNPIK.reshape(layer.groups, index_NPK.shape[:2].numel(), -1)


def _sources(layer: Conv, inputs: Sequence[int], outputs: Sequence[int]) -> Tensor:
    """For every place of the output and entry of the kernel, the place of the input that meets them, (S, K).

    Places outside of the input get the number behind the last one.
    """
    tables = [_sources_along(layer, d, inputs[d], outputs[d]) for d in range(len(inputs))]
    places = torch.cartesian_prod(*map(torch.arange, outputs)).reshape(-1, len(inputs))
    entries = torch.tensor(list(product(*map(range, layer.kernel_size))))
    flat_SK = torch.zeros(len(places), len(entries), dtype=torch.long)
    outside_SK = torch.zeros_like(flat_SK, dtype=torch.bool)
    for d, table in enumerate(tables):
        along_SK = table[places[:, d].unsqueeze(1), entries[:, d].unsqueeze(0)]
        outside_SK |= along_SK < 0
        flat_SK = flat_SK * inputs[d] + along_SK
    return flat_SK.masked_fill(outside_SK, math.prod(inputs))


def _sources_along(layer: Conv, d: int, size: int, outputs: int) -> Tensor:
    """The same along one dimension, (outputs, kernel); -1 outside."""
    stride, dilation, kernel = layer.stride[d], layer.dilation[d], layer.kernel_size[d]
    written, entry = torch.arange(outputs).unsqueeze(1), dilation * torch.arange(kernel)
    padding = _padding(layer, d)
    if isinstance(layer, ConvTranspose):  # entry k of input s writes to s * stride - padding + k * dilation
        spread = written + padding - entry
        read = torch.where(spread % stride == 0, spread.div(stride, rounding_mode="floor"), -1)
    else:
        read = written * stride - padding + entry
    return _inside(read, size, layer.padding_mode)


def _padding(layer: Conv, d: int) -> int:
    if isinstance(layer.padding, str):
        return layer.dilation[d] * (layer.kernel_size[d] - 1) // 2 if layer.padding == "same" else 0
    return int(layer.padding[d])


def _inside(read: Tensor, size: int, mode: str) -> Tensor:
    """Where a place outside of the input is read instead, by the padding's mode; -1 for zeros."""
    if mode == "circular":
        return read % size
    if mode == "replicate":
        return read.clamp(0, size - 1)
    if mode == "reflect":
        return size - 1 - (size - 1 - read.abs()).abs()
    return torch.where((read >= 0) & (read < size), read, -1)


def bias_of(layer: nn.Module) -> Tensor | None:
    """Return a layer's bias, without its history, or None where it has none."""
    return layer.bias.detach() if isinstance(layer.bias, Tensor) else None


def norm_scale(norm: BatchNorm) -> Tensor:
    """Return what a batch norm multiplies each channel by, with its running statistics."""
    assert norm.running_var is not None
    scale_C = (norm.running_var + norm.eps).rsqrt()
    return scale_C if norm.weight is None else scale_C * norm.weight.detach()


def parts_of(layer: nn.Module, places_NP: Tensor) -> Iterator[Tensor]:
    """Yield numbers of samples in parts whose columns, laid out at once, are few enough for memory."""
    one = places_NP.shape[1] * as_columns(layer).shape[:2].numel()
    yield from torch.split(torch.arange(len(places_NP)), max(1, PART_ENTRIES // one))


def as_columns(layer: nn.Module) -> Tensor:
    """Return a layer's weights as the factor on :func:`columns`, (G, p, q)."""
    weight, groups = weight_of(layer).detach(), conv_groups(layer)
    if isinstance(layer, ConvTranspose):  # (I, O / G, k, k)
        w_GIOK = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
        return w_GIOK.mT.flatten(1, 2)
    return weight.reshape(groups, len(weight) // groups, -1).mT


def as_weight(layer: nn.Module, w_Gpq: Tensor) -> Tensor:
    """Return such a factor in the form of the layer's weight: the inverse of :func:`as_columns`."""
    shape, groups = weight_of(layer).shape, conv_groups(layer)
    if isinstance(layer, ConvTranspose):
        return w_Gpq.reshape(groups, shape[0] // groups, -1, shape[1]).mT.reshape(shape)
    return w_Gpq.mT.reshape(shape)


def by_group(layer: nn.Module, y_NPO: Tensor) -> Tensor:
    """Return outputs at places by conv group, (G, n, q)."""
    groups, outputs = conv_groups(layer), y_NPO.shape[-1]
    return y_NPO.reshape(-1, groups, outputs // groups).transpose(0, 1)
