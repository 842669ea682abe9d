"""Averages of weights over training (EMA): where training scripts keep them, and under which names.

Keys and layouts are those of timm (``state_dict_ema``), torchvision's references (``model_ema``, which is an
AveragedModel's), Ultralytics and RT-DETR (``ema``), BasicSR (``params_ema``), ema-pytorch (``ema_model.``
beside ``online_model.``), Latent Diffusion (``model_ema.`` with names without dots), diffusers and torch-ema
(``shadow_params``, in the order of the parameters), Lightning's WeightAveraging and MMEngine's EMAHook, which
both swap the average into ``state_dict``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

State = dict[str, Tensor]

WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
OTHER_NAMES = frozenset({"shadow", "shadow_params", "averaged_model", "average_model", "avg_model"})

SHADOW = "shadow_params"
"""A list of tensors without names."""

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

LEAST_KEYS = 0.2
"""Of all keys, that averages inside of a state dict have at least; a layer may be called ``ema`` too."""


def says_average(name: str) -> bool:
    """Whether a name says that weights are averages.

    Example:
        >>> [says_average(name) for name in ("state_dict_ema", "EMACallback", "schema", "ema")]
        [True, True, False, True]
    """
    return name in OTHER_NAMES or any(word.lower() == "ema" for word in WORDS.findall(name))


def is_mmengine(content: Mapping[Any, Any]) -> bool:
    """Whether MMEngine wrote a file."""
    meta = content.get("meta")
    return isinstance(meta, Mapping) and "mmengine_version" in meta


# What tells a file in which the average was swapped into ``state_dict`` -> the key of the other weights.
SWAPPED: tuple[tuple[Callable[[Mapping[Any, Any]], bool], str], ...] = (
    (lambda content: "averaging_state" in content, "current_model_state"),
    (is_mmengine, "ema_state_dict"),
)


def swapped(content: Mapping[Any, Any]) -> str | None:
    """The key of the plain weights where ``state_dict`` holds their average, else None."""
    return next((other for is_so, other in SWAPPED if is_so(content) and other in content), None)


def average_inside(state: Mapping[str, Tensor]) -> str | None:
    """The prefix of a state dict's own averages, or None where it has none beside other weights.

    Example:
        >>> import torch
        >>> x = torch.ones(1)
        >>> average_inside({"model.0.weight": x, "model_ema.0.weight": x, "model_ema.decay": x})
        'model_ema.'
    """
    counts = Counter(prefix for key in state if (prefix := average_prefix(key)))
    if not counts:
        return None
    # The deepest: ``ema.ema_model.`` has ``ema.online_model.`` beside it.
    large = [prefix for prefix, count in counts.items() if count >= LEAST_KEYS * len(state)]
    return max(large, key=lambda prefix: prefix.count("."), default=None)


def average_prefix(key: str) -> str:
    """A name up to the last part of it that says average; empty where none does."""
    parts = key.split(".")[:-1]
    last = max((i for i, part in enumerate(parts) if says_average(part)), default=-1)
    return "".join(part + "." for part in parts[: last + 1])


def named_like(average: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> State | None:
    """Averages under the names of the plain weights, which fill in what is lacking; None if they don't match.

    Args:
        average: under the same names; the same without dots, or with underscores for dots; or the parameters
            by their number.
        plain: the weights that were averaged.
    """
    for names in (_same(plain), _joined(plain, ""), _joined(plain, "_"), _numbered(average, plain)):
        taken = {names[key]: tensor for key, tensor in average.items() if key in names}
        lost = [key for key, tensor in average.items() if key not in names and tensor.dim()]
        if taken and not lost and all(plain[name].shape == x.shape for name, x in taken.items()):
            return {**plain, **taken}
    return None


def _same(plain: Mapping[str, Tensor]) -> Mapping[str, str]:
    return {name: name for name in plain}


def _joined(plain: Mapping[str, Tensor], joint: str) -> Mapping[str, str]:
    return {name.replace(".", joint): name for name in plain}


def _numbered(average: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> Mapping[str, str]:
    parameters = [name for name in plain if not name.endswith(STATISTICS)]
    numbers = [str(i) for i in range(len(parameters))]
    return dict(zip(numbers, parameters, strict=True)) if list(average) == numbers else {}


def as_state(tensors: Sequence[Any]) -> State:
    """Tensors without names, by their number."""
    return {str(i): tensor for i, tensor in enumerate(tensors) if isinstance(tensor, Tensor)}
