"""The classes that a pickled network may be made of."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import nn

# Packages whose nn.Module subclasses may appear in a pickle, and how to have them all defined.
TRUSTED_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch.nn": ("torch.nn",),
    "torchvision": ("torchvision.models", "torchvision.ops"),
    "timm": ("timm.models",),
    "structprune": ("structprune.models",),
}

# These carry generated source code and compile it.
GENERATED = (torch.fx.GraphModule, torch.jit.ScriptModule)


def allowed_globals(names: Sequence[str]) -> dict[str, Any]:
    """The named globals that are allowed classes, and partial."""
    packages = {
        package for package in TRUSTED_PACKAGES if any(name.startswith(package + ".") for name in names)
    }
    known: dict[str, Any] = {}
    for package in sorted(packages):
        known |= module_classes(package)
    known["functools.partial"] = functools.partial
    return {name: known[name] for name in names if name in known}


@functools.cache
def module_classes(package: str) -> Mapping[str, type[nn.Module]]:
    """Every ``nn.Module`` subclass that a trusted package defines, by full name.

    Args:
        package: a key of :data:`TRUSTED_PACKAGES`; where it is not installed there are none.
    """
    try:
        for name in TRUSTED_PACKAGES[package]:
            __import__(name)
    except ImportError:
        return {}
    inside = [module for name, module in list(sys.modules.items()) if name.startswith(package + ".")]
    return {
        f"{value.__module__}.{value.__qualname__}": value
        for module in inside
        for value in list(vars(module).values())
        if _is_plain_module(value) and value.__module__ == module.__name__
    }


def _is_plain_module(value: object) -> TypeGuard[type[nn.Module]]:
    return isinstance(value, type) and issubclass(value, nn.Module) and not issubclass(value, GENERATED)
