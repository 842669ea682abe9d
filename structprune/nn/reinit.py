"""New weights for a network: Kaiming-normal convolutions and linear layers, as if it began again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from structprune.nn.layers import BatchNorm, rows_of, weighted_layers

DRAWS = 8


def redrawn(model: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Return Kaiming-normal (fan-in, gain sqrt 2) conv and linear weights, batch norms at (1, 0).

    Args:
        model: the network; it is left as it is.
        generator: on the CPU, so that every device gets the same numbers.

    Returns:
        Parameter name -> values; biases and all else keep theirs and are not among them.
    """
    drawn: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, BatchNorm) and layer.affine:
            drawn[f"{name}.weight"] = torch.ones_like(layer.weight)
            drawn[f"{name}.bias"] = torch.zeros_like(layer.bias)
    layers = dict(model.named_modules())
    for name, weight in own_weights(model):
        rows = rows_of(layers[name.rpartition(".")[0]], weight)
        fan_in = nn.init._calculate_correct_fan(rows, "fan_in")
        drawn[name] = normal(weight, (2.0 / fan_in) ** 0.5, generator)
    return drawn


def own_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield conv and linear weights that are parameters: a shared one once, a computed one never."""
    names = {f"{name}.weight" for name, _ in weighted_layers(model)}
    return ((name, parameter) for name, parameter in model.named_parameters() if name in names)


def normal(like: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Draw normal numbers on the CPU, and give them a tensor's shape, type and device."""
    return (torch.randn(like.shape, generator=generator, dtype=like.dtype) * std).to(like.device)


def reinitialised(model: nn.Module, varies: Callable[[nn.Module], bool]) -> nn.Module:
    """Return a copy with redrawn weights and tiny biases, the same in every process.

    Args:
        model: the network; it is left as it is.
        varies: tells whether a copy's outputs vary with its inputs. A narrow network may well be silent, so
            several draws are tried; the last is returned where none of them varies.
    """
    copied = model
    for seed in range(DRAWS):
        copied = _drawn(model, seed)
        if varies(copied):
            break
    return copied


def _drawn(model: nn.Module, seed: int) -> nn.Module:
    copied, positive = copy.deepcopy(model), seed >= DRAWS // 2
    generator = torch.Generator().manual_seed(seed)
    drawn = redrawn(copied, generator)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if name in drawn:
                layer = copied.get_submodule(name.rpartition(".")[0])
                means = rows_of(layer, _means(rows_of(layer, drawn[name])))
                parameter.copy_(means if positive else drawn[name])
            elif "bias" in name.rpartition(".")[2]:  # those of recurrent layers have numbers behind
                parameter.copy_(normal(parameter, 0.0 if positive else 0.01, generator))
    return copied


def _means(weight: Tensor) -> Tensor:
    """Positive weights that take a mean, so that no rectifier behind them is ever silent."""
    if weight.dim() < 2:
        return weight
    return weight.abs() / weight.abs().flatten(1).sum(1).reshape(-1, *(1,) * (weight.dim() - 1))
