"""A cut network back from its folder, ready to train on."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from structprune.errors import InputError
from structprune.models.results.plan_file import PLAN, read_plan
from structprune.models.results.rebuild import rebuild


def load(folder: str | Path, model: nn.Module | None = None, *, trust_factory: bool = False) -> nn.Module:
    """Rebuild the network that a result folder holds; no pickle is read and nothing it names is imported.

    Args:
        folder: what ``structprune compress`` wrote.
        model: the unpruned network, for one of your own that no registry builds; it is copied, not changed.
        trust_factory: import and call the ``package.module:factory`` that the network was made by.

    Returns:
        The cut network on the CPU, in evaluation mode; it trains on as any other.

    Raises:
        InputError: the folder is no result, or plan, network and weights do not agree.
        UnsafeCheckpointError: the plan names code that is no registry's.
    """
    folder = Path(folder)
    if not (folder / PLAN).is_file():
        kind = "is a folder without" if folder.is_dir() else "is no folder with"
        raise InputError(f"{folder} {kind} a {PLAN}; give what structprune compress wrote")
    return rebuild(folder, read_plan(folder), model, trust_factory=trust_factory)
