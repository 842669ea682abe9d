"""How many multiply-adds one input costs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from exporters.probes.readings import Reading, Readings
from exporters.runtime.networks import evaluating, of_batch


def count_flops(model: nn.Module, example: tuple[Tensor, ...]) -> int:
    """Count the multiply-adds of convolutions, matrix products and attention for one input.

    A multiply-add counts as one, as fvcore counts it; biases, norms, activations and pools count nothing.

    Args:
        model: the network; run once in evaluation mode.
        example: positional inputs, each of shape [B, ...]; the first input is used.

    Returns:
        Multiply-adds of one input.
    """
    with evaluating(model), torch.no_grad(), _countable(model), FlopCounterMode(display=False) as counter:
        model(*of_batch(example, 1))
    # PyTorch counts the multiplication and the addition.
    return int(counter.get_total_flops()) // 2


@contextmanager
def _countable(model: nn.Module) -> Iterator[None]:
    """Run fused kernels, which the counter doesn't know, as the products that they stand for."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # Earlier releases of the counter don't know the CPU's kernel for attention.
        with sdpa_kernel(SDPBackend.MATH), _recurrent_in_steps(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


@contextmanager
def _recurrent_in_steps(model: nn.Module) -> Iterator[None]:
    """Keep oneDNN from taking a whole LSTM or GRU in one kernel; convolutions may keep it."""
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    with warnings.catch_warnings():
        # Setting any flag of oneDNN warns about those that this build of PyTorch lacks.
        warnings.filterwarnings("ignore", "TF32 acceleration", UserWarning)
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def flops(models: Sequence[nn.Module], example: tuple[Tensor, ...]) -> Readings:
    """Count the multiply-adds of one input in billions."""
    return Readings(
        name="flops",
        runtime="none",
        batch=1,
        threads=None,
        unit="GFLOP",
        how="multiply-adds of one input / 1e9, a multiply-add counted as one (as fvcore does); "
        "convolutions, matrix products and attention",
        networks=tuple(Reading((count_flops(model, example) / 1e9,)) for model in models),
    )
