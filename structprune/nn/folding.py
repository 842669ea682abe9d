"""Reparametrised weights, folded: computed once and for all, as in evaluation mode.

Weight norm and spectral norm, old and new, torch's own masks and any other parametrization compute a weight
from other parameters in every pass. A cut takes rows and columns of the weight itself, which is put in their
place.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

SHOWN = 3
"""Layers that a note names."""

_HOOKS: Mapping[type, Callable[[nn.Module, str], object]] = {
    WeightNorm: remove_weight_norm,
    SpectralNorm: remove_spectral_norm,
    prune.BasePruningMethod: prune.remove,
}
"""Hooks in front of a forward pass that compute a weight -> what takes them away."""


class Folded(NamedTuple):
    """A network without reparametrised weights.

    Attributes:
        model: a copy, or the very network where there is nothing to fold.
        notes: what a reader must know.
    """

    model: nn.Module
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Computed:
    """A weight that is computed from other parameters.

    Attributes:
        layer: the name of its module.
        key: its own name there.
        kind: the class of what computes it.
    """

    layer: str
    key: str
    kind: str


def computed_weights(model: nn.Module) -> list[Computed]:
    """List the weights that are computed from others, in the network's order.

    Example:
        >>> from torch.nn.utils.parametrizations import weight_norm
        >>> computed_weights(nn.Sequential(weight_norm(nn.Linear(2, 3))))
        [Computed(layer='0', key='weight', kind='_WeightNorm')]
    """
    return [row for name, module in model.named_modules() for row in _of(name, module)]


def remedy(module: nn.Module) -> str | None:
    """Say what computes a weight of a module and how to fold it, or None where none is computed."""
    row = next(_of("", module), None)
    if row is None:
        return None
    how = (
        "parametrize.remove_parametrizations" if parametrize.is_parametrized(module) else "remove_weight_norm"
    )
    return (
        f"{row.kind.lstrip('_')} computes its {row.key} from other parameters; "
        f"fold it by torch.nn.utils.{how}(layer, {row.key!r}) or the like"
    )


def folded(model: nn.Module) -> Folded:
    """Put weights in the place of what computes them, where outputs stay the same.

    They do in evaluation mode. What trains on afterwards trains the weights themselves. A weight that comes
    out otherwise every time, or can't be computed outside of a pass, is left as it is.

    Args:
        model: the network; it is left as it was.
    """
    found = computed_weights(model)
    if not found:
        return Folded(model)
    copied = _copied(model)
    left = {row: reason for rows in _by_layer(found) for row, reason in _fold(copied, rows).items()}
    by_kind: dict[str, list[Computed]] = defaultdict(list)
    for row in found:
        if left[row] is None:
            by_kind[row.kind].append(row)
    notes = [_note(kind, rows) for kind, rows in by_kind.items()]
    notes += [f"{_name(row)}, computed by {row.kind}, stays: {why}" for row, why in left.items() if why]
    return Folded(copied if by_kind else model, tuple(notes))


def _of(name: str, module: nn.Module) -> Iterator[Computed]:
    if parametrize.is_parametrized(module):
        for key, steps in module.parametrizations.items():  # type: ignore[operator, union-attr]
            yield Computed(name, key, type(steps[0]).__name__)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, tuple(_HOOKS)):
            yield Computed(name, _key(hook), type(hook).__name__)


def _note(kind: str, rows: list[Computed]) -> str:
    shown = ", ".join(_name(row) for row in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return (
        f"{kind.lstrip('_')} is folded into the weights that it computes; outputs stay as they are, and what "
        f"trains on does so without it: {shown}{more}"
    )


def _name(row: Computed) -> str:
    return f"{row.layer}.{row.key}" if row.layer else row.key


def _by_layer(rows: list[Computed]) -> Iterator[list[Computed]]:
    for _, own in itertools.groupby(rows, key=lambda row: row.layer):
        yield list(own)


def _fold(model: nn.Module, rows: list[Computed]) -> dict[Computed, str | None]:
    """Put weights of a module in the place of what computes them; say why one can't be, or None."""
    module = model.get_submodule(rows[0].layer)
    asks = {row.key: _asks(module, row.key) for row in rows}
    training = module.training
    try:
        module.eval()
        values = {row.key: _value(module, row.key) for row in rows}
    except Exception as error:  # of a parametrization of anyone's
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return dict.fromkeys(rows, reason)
    finally:
        module.train(training)
    _remove(module, list(values))
    for key, value in values.items():
        module.register_parameter(key, nn.Parameter(value, requires_grad=asks[key]))
    if isinstance(module, nn.RNNBase):  # keeps a list of its own
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
    return dict.fromkeys(rows)


def _value(module: nn.Module, key: str) -> Tensor:
    """Compute a weight.

    Raises:
        ValueError: it comes out otherwise every time.
    """
    with torch.no_grad():
        if not parametrize.is_parametrized(module, key):
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, tuple(_HOOKS)) and _key(hook) == key:
                    hook(module, ())
            return getattr(module, key).detach().clone()  # type: ignore[no-any-return]
        value, again = getattr(module, key), getattr(module, key)
    if not torch.equal(value, again):
        raise ValueError("it comes out otherwise every time")
    return value.detach().clone()  # type: ignore[no-any-return]


def _remove(module: nn.Module, keys: list[str]) -> None:
    """Take away what computes weights, and the weights."""
    for key in keys:
        _remove_hook(module, key)
        module._parameters.pop(key, None)
    if parametrize.is_parametrized(module):
        # By hand, since torch takes the attribute off a class that copies share.
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]


def _asks(module: nn.Module, key: str) -> bool:
    """Tell whether any parameter that a weight is computed from asks for gradients."""
    if parametrize.is_parametrized(module, key):
        return any(x.requires_grad for x in module.parametrizations[key].parameters())  # type: ignore[index, union-attr]
    own = module.named_parameters(recurse=False)
    return any(x.requires_grad for name, x in own if name.startswith(f"{key}_"))


def _remove_hook(module: nn.Module, key: str) -> None:
    for hook in list(module._forward_pre_hooks.values()):
        for kind, remove in _HOOKS.items():
            if isinstance(hook, kind) and _key(hook) == key:
                remove(module, key)


def _key(hook: Any) -> str:
    """Return the name of the weight that a hook computes."""
    return str(hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name)


def _copied(model: nn.Module) -> nn.Module:
    with _without_graphs(model):
        return copy.deepcopy(model)


@contextmanager
def _without_graphs(model: nn.Module) -> Iterator[None]:
    """Take weights that a hook left behind off their graphs, which can't be copied, while the block runs."""
    computed = [
        (module, key, value)
        for module in model.modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]
    try:
        for module, key, value in computed:
            vars(module)[key] = value.detach()
        yield
    finally:
        for module, key, value in computed:
            vars(module)[key] = value
