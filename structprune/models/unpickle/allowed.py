"""The classes that a pickled network may be made of."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import nn

# Packages whose nn.Module subclasses may appear in a pickle, and how to have them all defined.
TRUSTED_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch.nn": ("torch.nn",),
    "torchvision": ("torchvision.models", "torchvision.ops"),
    "timm": ("timm.models",),
    "structprune": ("structprune.models.definitions",),
}

# Modules that hold a network and add nothing to what it computes -> the attribute that holds it.
WRAPPERS: Mapping[str, str] = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "timm.utils.model_ema.ModelEmaV2": "module",
    "timm.utils.model_ema.ModelEmaV3": "module",
}

# What such a module keeps beside the network. It is let go with the module.
BESIDE_NETWORKS = frozenset(
    {
        "torch.distributed.algorithms.join._JoinConfig",
        "torch.nn.parallel.distributed._BucketCapacityConfig",
        "torch.nn.parallel.distributed._MixedPrecision",
        "torch.nn.parallel.distributed._BufferCommHook",
        "torch.nn.parallel.distributed._BufferCommHookLocation",
        "torch.distributed.distributed_c10d.ProcessGroup",
    }
)


@dataclass(frozen=True)
class Holder:
    """A module that is let go for the network in it.

    Attributes:
        attribute: the name under which it holds the network.
    """

    attribute: str


class Discarded:
    """What is read, since it lies beside a network, and never made."""


# These carry generated source code and compile it.
GENERATED = (torch.fx.GraphModule, torch.jit.ScriptModule)


def allowed_globals(names: Sequence[str]) -> dict[str, Any]:
    """The named globals that are allowed classes, partial, and what is let go for the network in it."""
    packages = {
        package for package in TRUSTED_PACKAGES if any(name.startswith(package + ".") for name in names)
    }
    known: dict[str, Any] = {}
    for package in sorted(packages):
        known |= module_classes(package)
    known["functools.partial"] = functools.partial
    known |= {name: Holder(attribute) for name, attribute in WRAPPERS.items()}
    known |= dict.fromkeys(BESIDE_NETWORKS, Discarded)
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
