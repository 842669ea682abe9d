"""Names of modules in a checkout from before the folders were put in order: benchmarks run on it too."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec

MOVED: Mapping[str, str] = {
    "structprune.cli.runs.network": "structprune.cli.inputs",
    "structprune.data": "structprune.tasks",
    "structprune.proofs.closed_gates": "structprune.proofs",
    "structprune.proofs.signature": "structprune.proofs",
    "structprune.proofs.trial_cut": "structprune.trial",
    "structprune.proofs.verdict": "structprune.proofs",
    "structprune.pruning.budget": "structprune.budget",
    "structprune.pruning.surgery": "structprune.surgery",
    "structprune.scoring.samples": "structprune.samples",
    "structprune.scoring.score": "structprune.choose",
    "structprune.scoring.sampling": "structprune.scores",
    "structprune.scoring.scores": "structprune.scores",
}
"""Module of this checkout that benchmarks import -> where it was before."""

RENAMED: Mapping[str, Mapping[str, str]] = {"structprune.proofs.trial_cut": {"verified_groups": "trusted"}}
"""Module of this checkout -> name in it -> what it was called before."""


def alias() -> None:
    """Let the new names stand for the old modules, where the first structprune on the path has those."""
    if find_spec("structprune.pruning") is not None:
        return
    for name, old in MOVED.items():
        module, parent = import_module(old), name.rpartition(".")[0]
        sys.modules.setdefault(parent, types.ModuleType(parent))
        sys.modules[name] = module
        for new, before in RENAMED.get(name, {}).items():
            setattr(module, new, getattr(module, before))
