"""What every exporter and probe needs of a network: its mode, its inputs, its outputs by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from structprune.errors import InputError
from structprune.nn.outputs import outputs_of


@dataclass(frozen=True)
class Network:
    """One network in both of its forms.

    Attributes:
        model: the module; probes leave its weights and modes as they were. None where there is a file only.
        onnx: the same network as an ONNX file.
    """

    model: nn.Module | None
    onnx: Path


def modules_of(networks: Sequence[Network]) -> list[nn.Module]:
    """Return the modules, or nothing where a network is there as a file only."""
    modules = [network.model for network in networks if network.model is not None]
    return modules if len(modules) == len(networks) else []


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every submodule into evaluation mode, and each back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def of_batch(example: Sequence[Tensor], batch: int) -> tuple[Tensor, ...]:
    """Repeat or cut the example inputs along dimension 0 until they hold ``batch`` inputs.

    Args:
        example: tensors of shape [B, ...]; a tensor without dimensions stays as it is.
        batch: inputs wanted, at least 1.

    Raises:
        InputError: there is nothing to repeat.

    Example:
        >>> of_batch((torch.tensor([[1], [2]]),), 3)[0].flatten().tolist()
        [1, 2, 1]
    """
    if batch < 1 or not example or any(x.dim() > 0 and len(x) == 0 for x in example):
        shapes = [tuple(x.shape) for x in example]
        raise InputError(
            f"can't make a batch of {batch} from inputs of shapes {shapes}; give at least one input"
        )
    return tuple(x if x.dim() == 0 else x[torch.arange(batch) % len(x)] for x in example)


def input_names(count: int) -> list[str]:
    """Return the names under which the inputs enter the ONNX file.

    Example:
        >>> input_names(1), input_names(2)
        (['input'], ['input_0', 'input_1'])
    """
    return ["input"] if count == 1 else [f"input_{position}" for position in range(count)]


def named_outputs(output: object, name: str = "output") -> dict[str, Tensor]:
    """Flatten what a network returns into names and tensors, in order; what is None is left out.

    So are caches, which are no results. The tensors of any other object are those of its attributes.

    Raises:
        InputError: the output holds something without any tensors.

    Example:
        >>> list(named_outputs((torch.ones(1), {"depth": torch.ones(1)})))
        ['output_0', 'output_1_depth']
    """
    if output is None:
        return {}
    if isinstance(output, Tensor):
        return {name: output}
    if isinstance(output, Mapping):
        prefix = "" if name == "output" else f"{name}_"
        parts = [(f"{prefix}{key}", part) for key, part in output.items()]
    elif isinstance(output, tuple | list):
        parts = [(f"{name}_{position}", part) for position, part in enumerate(output)]
    else:
        return _of_object(output, name)
    return {
        label: tensor for part_name, part in parts for label, tensor in named_outputs(part, part_name).items()
    }


def _of_object(output: object, name: str) -> dict[str, Tensor]:
    found = outputs_of(output)
    if not found.tensors and not found.states:
        raise InputError(
            f"the network returns a {type(output).__name__}; expected tensors, or sequences or dicts of them"
        )
    labels = (f"{name}_{path.replace('.', '_')}" if path else name for path in found.names)
    return dict(zip(labels, found.tensors, strict=True))


class Flat(nn.Module):
    """A network that returns its outputs in one tuple, without caches and objects, which no file holds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the network."""
        return tuple(named_outputs(self.model(*inputs)).values())


def flat(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """Return the network, or, where it returns more than tensors, sequences and dicts, one that doesn't."""
    with evaluating(model), torch.no_grad():
        return model if _is_flat(model(*inputs)) else Flat(model)


def _is_flat(output: object) -> bool:
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, Mapping | tuple | list):
        return all(map(_is_flat, parts))  # type: ignore[call-overload]
    return output is None or isinstance(output, Tensor)


def run_outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Run the network once in evaluation mode, without gradients, and return its named outputs."""
    with evaluating(model), torch.no_grad():
        return named_outputs(model(*inputs))
