"""Parts of a state dict whose names begin alike: ``module.``, ``net.``, ``architecture.``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from structprune.models.averages import says_average

State = dict[str, Tensor]

LEAST_SHARE = 0.05
"""Of all entries, that a part has at least which may be a network of its own."""
MOST_VIEWS = 24
LEVELS = 8


@dataclass(frozen=True)
class View:
    """The part of a state dict behind one prefix, under names without it.

    Attributes:
        prefix: with its last dot; empty for the whole.
        state: name without the prefix -> tensor.
        beside: names that do not begin with the prefix.
        share: of all entries of the state dict, that are in this part.
    """

    prefix: str
    state: State
    beside: tuple[str, ...]
    share: float

    @property
    def is_average(self) -> bool:
        """Whether a part of the prefix says that the weights are averages."""
        return any(says_average(part) for part in self.prefix.split("."))


def views(state: Mapping[str, Tensor], prefixes: Sequence[str]) -> Iterator[View]:
    """Yield the whole of a state dict, then the parts behind prefixes, in their order."""
    yield View("", dict(state), (), 1.0)
    total = max(1, _entries(state))
    for prefix in prefixes:
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        beside = tuple(key for key in state if not key.startswith(prefix))
        yield View(prefix, inside, beside, _entries(inside) / total)


def _entries(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in state.values())


def large_parts(state: Mapping[str, Tensor]) -> list[str]:
    """Prefixes that hold a share worth looking at, larger shares and shorter prefixes first."""
    entries = _large_parts(state, max(1, _entries(state)))
    return sorted(entries, key=lambda prefix: (-entries[prefix], len(prefix)))[:MOST_VIEWS]


def prefixes_of(names: Sequence[str], state: Mapping[str, Tensor]) -> list[str]:
    """Prefixes behind which a state dict has all of the names.

    Example:
        >>> import torch
        >>> x = torch.ones(1)
        >>> prefixes_of(["a", "b"], {"net.a": x, "net.b": x, "loss.a": x})
        ['net.']
    """
    first = "." + names[0] if names else ""
    ends = [key.removesuffix(first) + "." for key in state if first and key.endswith(first)]
    return [prefix for prefix in ends if all(prefix + name in state for name in names)]


def _large_parts(state: Mapping[str, Tensor], total: int) -> Mapping[str, int]:
    """Prefix -> entries behind it."""
    large: dict[str, int] = {}
    level = {"": list(state)}
    for _ in range(LEVELS):
        below: dict[str, list[str]] = defaultdict(list)
        for prefix, keys in level.items():
            for key in keys:
                part, dot, _ = key[len(prefix) :].partition(".")
                if dot:
                    below[prefix + part + dot].append(key)
        sizes = {prefix: sum(state[key].numel() for key in keys) for prefix, keys in below.items()}
        level = {prefix: below[prefix] for prefix, size in sizes.items() if size >= LEAST_SHARE * total}
        large |= {prefix: sizes[prefix] for prefix in level}
    return large


def common_prefix(state: Mapping[str, Tensor]) -> str:
    """The longest prefix of all tensors but single numbers, such as counters.

    Example:
        >>> import torch
        >>> common_prefix({"module.conv.weight": torch.ones(1), "n_averaged": torch.tensor(3)})
        'module.conv.'
    """
    names = [key for key, tensor in state.items() if tensor.dim()]
    if not names:
        return ""
    first, last = (name.split(".") for name in (min(names), max(names)))
    shared = 0
    while shared < min(len(first), len(last)) - 1 and first[shared] == last[shared]:
        shared += 1
    return "".join(part + "." for part in first[:shared])
