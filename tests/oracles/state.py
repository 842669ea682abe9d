"""Everything that scoring, gating and cutting must leave as it was, as one comparable value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Parameters, gradients, buffers, modes, hooks, momenta and the global state of torch, bit by bit."""
    return {**dict(tensors(model)), **dict(attributes(model)), **world()}


def tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, p in model.named_parameters(remove_duplicate=False):
        yield f"parameter {name}", bits(p)
        yield f"gradient {name}", None if p.grad is None else bits(p.grad)
        yield f"requires_grad {name}", p.requires_grad
        yield f"identity {name}", (id(p), p.data_ptr())
    for name, buffer in model.named_buffers(remove_duplicate=False):
        yield f"buffer {name}", (bits(buffer), buffer.data_ptr(), buffer.requires_grad)


def attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules(remove_duplicate=False):
        yield f"mode {name}", module.training
        yield f"hooks {name}", {hooks: list(getattr(module, hooks)) for hooks in HOOKS}
        yield f"momentum {name}", getattr(module, "momentum", None)
        yield f"attributes {name}", sorted(vars(module))


def world() -> dict[str, Any]:
    return {
        "random state": bits(torch.get_rng_state()),
        "gradients on": torch.is_grad_enabled(),
        "tf32 in matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32 in cudnn": torch.backends.cudnn.allow_tf32,
        "attention fast path": torch.backends.mha.get_fastpath_enabled(),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
    }


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return tensor.dtype, tuple(tensor.shape), tensor.detach().cpu().contiguous().numpy().tobytes()


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Name what differs."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
