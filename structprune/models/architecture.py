"""What a network is built from: a name in a zoo, or a factory, with arguments."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from structprune.errors import InputError, StructpruneError, UnsafeCheckpointError
from structprune.models.tensors import check_tree, inner_network
from structprune.models.zoo import ZOOS

JSONValue = bool | int | float | str | Sequence[int]
FACTORY = "factory"
LARGEST_ARGUMENT = 1_000_000


@dataclass(frozen=True)
class Architecture:
    """A network without its weights, as data.

    Attributes:
        source: ``"torchvision:resnet18"``, ``"structprune:cifar_resnet20"``, ``"timm:..."``,
            ``"transformers:..."`` or ``"factory:package.module:function"``.
        arguments: keyword arguments of the builder: ``{"num_classes": 10}``.

    Example:
        >>> sum(p.numel() for p in build(Architecture("structprune:mlp", {"num_classes": 2})).parameters())
        117250
    """

    source: str
    arguments: Mapping[str, JSONValue] = field(default_factory=dict)

    @property
    def zoo(self) -> str:
        """The part in front of the first colon."""
        return self.source.partition(":")[0]

    @property
    def name(self) -> str:
        """The network's own name, fit for a folder's: ``"resnet18"``, or the factory's function."""
        return self.source.rpartition(":")[2]


def build(architecture: Architecture, *, trust_factory: bool = False, pretrained: bool = False) -> nn.Module:
    """Build a network on the CPU, with fresh weights drawn from torch's global generator.

    Args:
        architecture: what to build.
        trust_factory: whether the code that a ``factory:`` names may be imported and called.
        pretrained: fetch the zoo's weights instead.

    Raises:
        UnsafeCheckpointError: the source is no registry's, and ``trust_factory`` is not given.
        InputError: the builder fails.
        UsageError: the zoo is an extra that is not installed.
    """
    if architecture.zoo == FACTORY and trust_factory:
        return call_factory(architecture.source.removeprefix(FACTORY + ":"), architecture.arguments)
    check(architecture)
    try:
        return ZOOS[architecture.zoo].build(architecture.name, architecture.arguments, pretrained)
    except StructpruneError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{architecture.source} can't be built: {error}") from error


def check(architecture: Architecture) -> None:
    """Refuse what names anything but a known network with plain, small arguments; nothing is imported for it.

    Raises:
        UnsafeCheckpointError: the source or an argument is not of a registry.
        InputError: an argument's value is out of bounds.
    """
    zoo = ZOOS.get(architecture.zoo)
    if zoo is None or architecture.source.count(":") != 1:
        raise UnsafeCheckpointError(
            f"{architecture.source!r} names code that is no known zoo's ({', '.join(ZOOS)}), and nothing was"
            " imported; give the unpruned network as model=, or trust_factory=True if you wrote the factory; "
            f"from the shell --arch {architecture.source}"
        )
    if architecture.name not in zoo.names():
        raise InputError(f"{architecture.zoo} has no network {architecture.name!r}")
    for name, value in architecture.arguments.items():
        _check_argument(architecture, zoo.arguments, name, value)


def _check_argument(
    architecture: Architecture, allowed: frozenset[str] | None, name: str, value: object
) -> None:
    # Without a list, as for transformers' configurations, text is refused: it can name code or downloads.
    numbers = value if isinstance(value, (list, tuple)) else [value]
    text = any(isinstance(number, str) for number in numbers)
    if name not in allowed if allowed is not None else text or "backbone" in name:
        raise UnsafeCheckpointError(f"{architecture.source} may not be built with the argument {name!r}")
    for number in numbers:
        if not isinstance(number, (bool, int, float, str)) or _large(number):
            raise InputError(f"the argument {name} of {architecture.source} is out of bounds: {value!r}")


def _large(value: bool | int | float | str) -> bool:
    return not isinstance(value, str) and not 0 <= value <= LARGEST_ARGUMENT


def call_factory(spec: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Import ``package.module:function`` and call it: code of the user's own, by the user's word.

    Raises:
        InputError: there is no such function, it fails, or it returns no ``nn.Module``.
    """
    try:
        with _importable_working_folder():
            model = _factory(spec)(**arguments)
    except Exception as error:  # the factory is foreign code, which may raise anything
        raise InputError(f"the factory {spec} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"the factory {spec} returned a {type(model).__name__}, not an nn.Module")
    network = inner_network(model)
    check_tree(network, f"the factory {spec}")
    return network.cpu()


def factory_takes(spec: str, argument: str) -> bool:
    """Tell whether ``package.module:function`` takes a keyword argument; one that can't be read doesn't."""
    try:
        with _importable_working_folder():
            parameters = inspect.signature(_factory(spec)).parameters.values()
    except Exception:  # calling it says what is wrong with it
        return False
    return any(p.name == argument or p.kind is p.VAR_KEYWORD for p in parameters)


def _factory(spec: str) -> Callable[..., Any]:
    module, _, function = spec.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


@contextmanager
def _importable_working_folder() -> Iterator[None]:
    """Let a module in the working folder be imported, as ``python -m`` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


class _OnMeta(TorchFunctionMode):
    """Makes the tensors that hold weights without memory; small tables are computed as ever.

    ``torch.device("meta")`` would catch ``torch.tensor`` and ``torch.arange`` too, and builders read those.
    """

    CREATORS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.CREATORS and kwargs.get("device") is None and not _imports(sys._getframe(1)):
            kwargs["device"] = torch.device("meta")
        return func(*args, **kwargs)


def _imports(frame: FrameType | None) -> bool:
    """Tell whether a module is being imported: what it makes is everybody's, and has to hold something."""
    while frame is not None and frame.f_code is not build_on_meta.__code__:
        if frame.f_code.co_name == "<module>":
            return True
        frame = frame.f_back
    return False


def build_on_meta(architecture: Architecture, *, trust_factory: bool = False) -> nn.Module:
    """Build a network whose weights take no memory; the random state stays as it is.

    A builder that reads its own weights can't do without them: it is then built on the CPU, as is what a
    factory returns, which may keep tensors where nobody looks for them.
    """
    with torch.random.fork_rng(devices=[]):
        if architecture.zoo != FACTORY:
            with suppress(InputError, NotImplementedError), _OnMeta():
                return build(architecture, trust_factory=trust_factory)
        return build(architecture, trust_factory=trust_factory)
