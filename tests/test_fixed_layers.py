"""Layers as linear maps against torch's own derivatives, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from structprune.nn.fixed_layers import FixedLayers

Layer = Callable[[Tensor], Tensor]
SIDES = {1: (11,), 2: (9, 8), 3: (6, 5, 4)}


def layers() -> Iterator[tuple[str, nn.Module, int]]:
    for sides, (conv, transposed, norm) in enumerate(
        [
            (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d),
            (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d),
            (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d),
        ],
        start=1,
    ):
        yield f"{sides}d", conv(4, 6, 3), sides
        yield f"{sides}d, 1x1, no bias", conv(4, 6, 1, bias=False), sides
        yield f"{sides}d, strides and groups", conv(4, 6, 3, stride=2, padding=1, groups=2), sides
        yield f"{sides}d, dilated, same", conv(4, 6, 3, dilation=2, padding="same"), sides
        yield f"{sides}d, circular", conv(4, 6, 3, padding=1, padding_mode="circular"), sides
        yield f"{sides}d, transposed", transposed(4, 6, 3, stride=2, output_padding=1, groups=2), sides
        yield f"{sides}d, normalised", norm(4), sides
        yield f"{sides}d, normalised without weights", norm(4, affine=False), sides
        yield f"{sides}d, normalised by its batch", norm(4, track_running_stats=False), sides


CASES = {name: (layer, sides) for name, layer, sides in layers()}


def prepared(name: str) -> tuple[nn.Module, Tensor]:
    layer, sides = CASES[name]
    torch.manual_seed(0)
    layer = layer.double().eval().requires_grad_(False)
    with torch.no_grad():
        for x in (*layer.parameters(), *layer.buffers()):
            if x.is_floating_point():
                x.copy_(torch.rand_like(x) + 0.5)
    return layer, torch.randn(3, 4, *SIDES[sides], dtype=torch.float64)


def derivatives(layer: Layer, x: Tensor, fixed: bool) -> list[Tensor]:
    """Output, gradient and Hessian times gradient of a sum of cubes, through two factors on the input."""
    factor = torch.ones(4, *(1,) * (x.dim() - 2), dtype=x.dtype, requires_grad=True)
    mode: AbstractContextManager[object] = FixedLayers() if fixed else nullcontext()
    with mode:
        y = layer((x * factor).tanh() * factor)
    (g,) = torch.autograd.grad(y.pow(3).sum(), factor, create_graph=True)
    (product,) = torch.autograd.grad((g * g.detach()).sum(), factor)
    return [y.detach(), g.detach(), product]


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_derivatives_are_torchs_own(name: str) -> None:
    layer, x = prepared(name)
    for got, expected in zip(derivatives(layer, x, True), derivatives(layer, x, False), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


def test_weights_that_are_differentiated_are_left_to_torch() -> None:
    layer, x = prepared("2d")
    layer.requires_grad_(True)
    with FixedLayers():
        layer(x).pow(2).sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in layer.parameters())


def test_a_second_derivative_convolves_no_more_than_it_must() -> None:
    """Forward, backward, and each of these once more: four convolutions a layer; torch takes more."""
    layer, x = prepared("2d, strides and groups")
    ours, torchs = (_convolutions(layer, x, fixed) for fixed in (True, False))
    assert ours == 4 < torchs


def _convolutions(layer: nn.Module, x: Tensor, fixed: bool) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        derivatives(layer, x, fixed)
    names = ("aten::_convolution", "aten::convolution_backward")
    return sum(row.count for row in profile.key_averages() if row.key in names)


def test_two_kernels_are_one_whatever_the_number_of_samples_and_threads() -> None:
    """Of 1x1 convolutions in float32, which torch computes otherwise below 16 samples on one thread."""
    torch.manual_seed(0)
    x, weight = torch.randn(32, 256, 7, 7), torch.randn(64, 256, 1, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with FixedLayers():
            whole = functional.conv2d(x, weight)
            parts = torch.cat([functional.conv2d(part, weight) for part in torch.split(x, 4)])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(whole, parts)
