"""Parts of a state dict whose names begin alike: ``module.``, ``net.``, ``architecture.``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from structprune.sources.averages import says_average

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


def views(state: Mapping[str, Tensor]) -> Iterator[View]:
    """Yield the whole of a state dict, then its parts, larger ones and shorter prefixes first."""
    yield View("", dict(state), (), 1.0)
    total = max(1, sum(tensor.numel() for tensor in state.values()))
    shares = [(prefix, entries / total) for prefix, entries in _parts(state, total).items()]
    for prefix, share in sorted(shares, key=lambda row: (-row[1], len(row[0])))[:MOST_VIEWS]:
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        beside = tuple(key for key in state if not key.startswith(prefix))
        yield View(prefix, inside, beside, share)


def _parts(state: Mapping[str, Tensor], total: int) -> Mapping[str, int]:
    """Prefix -> entries behind it, of all prefixes that hold a share worth looking at."""
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
