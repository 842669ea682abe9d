"""How torch computes while second derivatives are taken or operations are watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Switch off what second derivatives can't afford or can't use, and restore it.

    TF32 rounds at 1e-3, autocast at 4e-3; fused attention kernels have no double backward.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.mha.set_fastpath_enabled(False)
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
        torch.backends.mha.set_fastpath_enabled(fastpath)


@contextmanager
def one_kernel(model: nn.Module, samples: int) -> Iterator[None]:
    """Let 1x1 convolutions be computed the same way whatever the number of samples in a pass.

    On one CPU thread torch has two kernels for them, one below 16 samples. Their last digits differ, which
    flips rectifiers that are nearly at zero, and the scores of an untrained network then depend on the
    chunk (to 1e-2 for ResNet-50). On two threads there is one kernel.

    Args:
        model: the network.
        samples: the fewest in any pass.
    """
    threads = torch.get_num_threads()
    convolutions = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    differ = samples < _FEW and any(set(layer.kernel_size) == {1} for layer in convolutions)
    try:
        if differ and threads == 1:
            torch.set_num_threads(2)
        yield
    finally:
        torch.set_num_threads(threads)


_FEW = 16
