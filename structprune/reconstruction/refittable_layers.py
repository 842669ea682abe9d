"""Which layers of a network can be refitted, in which order, and what becomes of what they write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from structprune.nn.layers import BatchNorm, weight_of, weighted_layers
from structprune.reconstruction.im2col import is_batched

Hook = Callable[..., Any]
ADDITIONS = frozenset((torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__))
_PLAIN = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True)
class Reader:
    """A layer that can be refitted.

    Attributes:
        name: of the layer.
        norm: the batch norm that alone reads what the layer writes, or None.
        closes: whether what it writes, or that norm, ends in a sum of two, as the later of both.
        outputs: entries that the layer writes for one sample.
        inputs: and reads.
    """

    name: str
    norm: str | None
    closes: bool
    outputs: int
    inputs: int


def addition(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a call adds two tensors of one shape."""
    if func not in ADDITIONS or kwargs or len(args) != 2:
        return False
    return all(isinstance(x, Tensor) for x in args) and args[0].shape == args[1].shape


@contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Hook, Hook | None]]) -> Iterator[None]:
    """Call something before and after modules run, while the block runs."""
    handles = []
    try:
        for module, before, after in hooks:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            if after is not None:
                handles.append(module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what a layer was called with."""
    x = args[0] if args else kwargs["input"]
    assert isinstance(x, Tensor)
    return x


def readers(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Reader]:
    """List the layers that can be refitted, in the order in which what they write is settled.

    These are linear and conv layers of torch's own that run once a pass, with a weight that is a parameter of
    theirs alone. What closes a sum is settled where the sum is taken.

    Args:
        model: a network in evaluation mode.
        inputs: a few of its inputs.
    """
    watch = _Watch(_refittable(model))
    # A batch norm without statistics of its own is an operation as any other.
    norms = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and module.running_mean is not None
    ]
    hooks: list[tuple[nn.Module, Hook, Hook | None]] = [
        (layer, watch.calls(name), watch.writes(name)) for name, layer in watch.layers.items()
    ]
    hooks += [(norm, watch.norm_reads(name), watch.norm_writes(name)) for name, norm in norms]
    with torch.no_grad(), hooked(hooks), watch:
        output = model(*inputs)
    return watch.found([x for x in tree_leaves(output) if isinstance(x, Tensor)])


def _refittable(model: nn.Module) -> dict[str, nn.Module]:
    owners = Counter(
        id(p) for module in model.modules() for p in module._parameters.values() if p is not None
    )
    found = {name: layer for name, layer in weighted_layers(model) if _is_plain(layer)}
    return {name: layer for name, layer in found.items() if owners[id(layer.weight)] == 1}


def _is_plain(layer: nn.Module) -> bool:
    """Tell whether a layer computes what torch's own does, by a weight of its own and without hooks."""
    own = next((kind for kind in _PLAIN if isinstance(layer, kind)), None)
    if own is None or is_parametrized(layer) or layer._forward_pre_hooks or layer._forward_hooks:
        return False
    steps = ("forward", "_conv_forward", "__call__")
    same = all(getattr(type(layer), step, None) is getattr(own, step, None) for step in steps)
    return same and "forward" not in vars(layer) and isinstance(layer._parameters.get("weight"), nn.Parameter)


@dataclass
class _Seen:
    """One layer in the pass that is watched."""

    reader: Reader
    calls: int = 0
    written: Tensor | None = None
    norm: str | None = None
    end: Tensor | None = None
    called_at: int = 0
    added_at: int | None = None
    end_is_sum: bool = False
    end_reads: int = 0


@dataclass
class _Watch(TorchFunctionMode):
    """Notes who reads what the layers write, by the identity of tensors, all of which it keeps alive."""

    layers: Mapping[str, nn.Module]
    seen: dict[str, _Seen] = field(default_factory=dict)
    reads: Counter[int] = field(default_factory=Counter)
    norm_calls: Counter[str] = field(default_factory=Counter)
    clock: int = 0
    kept: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.clock += 1
        if any(isinstance(x, Tensor) for x in tree_leaves(result)):
            read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            self.kept.append((read, result))
            self.reads.update({id(x) for x in read})
            if addition(func, args, kwargs or {}):
                self._added(args, result)
        return result

    def _added(self, args: Sequence[Tensor], result: Any) -> None:
        terms = {id(x) for x in args}
        ends = [s for s in self.seen.values() if s.end is not None and id(s.end) in terms]
        if ends and len(terms) == 2:
            latest = max(ends, key=lambda s: s.called_at)
            latest.added_at = self.clock
            # Taken in place, the sum is the same tensor, which others may read from now on.
            latest.end_is_sum = result is latest.end
            latest.end_reads = self.reads[id(latest.end)]

    def calls(self, name: str) -> Hook:
        def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = input_of(args, kwargs)
            inputs = x[0].numel() if is_batched(layer, x) else 0
            seen = self.seen.setdefault(name, _Seen(Reader(name, None, False, 0, inputs)))
            seen.calls += 1

        return before

    def writes(self, name: str) -> Hook:
        def after(_: nn.Module, __: Any, y: Tensor) -> None:
            seen = self.seen[name]
            seen.written = seen.end = y
            seen.called_at = self.clock

        return after

    def norm_reads(self, norm: str) -> Hook:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.norm_calls[norm] += 1
            x = input_of(args, kwargs)
            for seen in (s for s in self.seen.values() if s.written is x):
                seen.norm = norm

        return before

    def norm_writes(self, norm: str) -> Hook:
        def after(_: nn.Module, __: Any, y: Tensor) -> None:
            for seen in (s for s in self.seen.values() if s.norm == norm):
                seen.end = y

        return after

    def found(self, outputs: Sequence[Tensor]) -> list[Reader]:
        given = {id(x) for x in outputs}
        once = [s for name, s in self.seen.items() if s.calls == 1 and self._alone(name) and s.reader.inputs]
        rows = [(seen, self._reader(seen, given)) for seen in once]
        rows.sort(key=lambda row: (row[0].added_at or 0) if row[1].closes else row[0].called_at)
        return [reader for _, reader in rows]

    def _alone(self, name: str) -> bool:
        """Tell whether the layer's own call is all that reads its weight."""
        return self.reads[id(weight_of(self.layers[name]))] == 1

    def _reader(self, seen: _Seen, given: set[int]) -> Reader:
        assert seen.written is not None
        alone = self.reads[id(seen.written)] == 1 and id(seen.written) not in given
        norm = seen.norm if seen.norm and alone and self.norm_calls[seen.norm] == 1 else None
        others = seen.end_reads != 1 or (not seen.end_is_sum and self._is_read_on(seen, given))
        closes = seen.added_at is not None and not others and (norm is not None or seen.norm is None)
        return Reader(seen.reader.name, norm, closes, seen.written[0].numel(), seen.reader.inputs)

    def _is_read_on(self, seen: _Seen, given: set[int]) -> bool:
        return self.reads[id(seen.end)] > 1 or id(seen.end) in given
