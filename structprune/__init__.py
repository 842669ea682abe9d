"""Structured pruning and deployment for PyTorch: score, cut, prove, export and measure.

The public names are imported when they are first used, so that ``structprune --help`` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from structprune._version import __version__

if TYPE_CHECKING:
    from structprune.api import Compressed, channel_groups, compress, score
    from structprune.errors import StructpruneError
    from structprune.models.results import load

_HOMES = {
    "Compressed": "api",
    "StructpruneError": "errors",
    "channel_groups": "api",
    "compress": "api",
    "load": "models.results",
    "score": "api",
}

__all__ = ["Compressed", "StructpruneError", "__version__", "channel_groups", "compress", "load", "score"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
