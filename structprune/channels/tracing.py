"""One forward pass whose tensors carry labels, and the groups of channels that come of it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from structprune.arithmetic import exact_arithmetic
from structprune.channels.groups import Coupling, Loose, Sizing
from structprune.channels.isolated import Limits, exhausted
from structprune.channels.labels import FIXED, Classes, Labels, Tag, along, disjoint, support
from structprune.channels.rules import Call, rule_of
from structprune.errors import InputError
from structprune.layers import (
    BatchNorm,
    ConvTranspose,
    Recurrent,
    conv_groups,
    in_width,
    is_depthwise,
    node_layers,
    out_width,
)

SECONDS = 60.0
"""How long a pass may take; that of the largest networks takes some seconds."""

LIMITS = Limits(seconds=SECONDS + 10, bytes=4 << 30)
"""What its process may take: an operation that never comes back is ended too."""

NORMS = (BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.PReLU)


@dataclass(frozen=True)
class Candidate:
    """Channels that leave together, before anybody asked whether they may.

    Attributes:
        name: of the first layer that produces them.
        size: number of channels.
        producers: layers that write them.
        consumers: layers that read them.
        carriers: layers in between with an entry per channel.
        loose: parameters that belong to no such layer, with an entry per channel.
        sizes: attributes of modules that count the channels.
        is_output: whether the network puts them out.
        fault: what forbids to cut them, or None.
    """

    name: str
    size: int
    producers: tuple[Coupling, ...]
    consumers: tuple[Coupling, ...]
    carriers: tuple[Coupling, ...]
    loose: tuple[Loose, ...]
    sizes: tuple[Sizing, ...]
    is_output: bool
    fault: str | None

    @property
    def couplings(self) -> tuple[Coupling, ...]:
        """Every layer that meets the channels, once a side."""
        return (*self.producers, *self.consumers, *self.carriers)


@dataclass(frozen=True)
class _Segment:
    """A run of labels: one side of a layer, or one dimension of a loose parameter."""

    start: int
    size: int
    side: str
    name: str
    dim: int = 0


@dataclass
class _Trace:
    """What a pass leaves behind, and what the rules ask of it."""

    labels: Labels = field(default_factory=Labels)
    segments: list[_Segment] = field(default_factory=list)
    tags: Any = field(default_factory=WeakTensorKeyDictionary)
    sides: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    running: list[tuple[str, nn.Module]] = field(default_factory=list)
    pieces: list[list[Tensor]] = field(default_factory=list)
    sizings: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)
    cut_padded: bool = False
    embedding: bool = False
    muted: int = 0
    calls: int = 0
    started: float = field(default_factory=time.perf_counter)
    makers: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)

    # ---- what rules ask

    def tag(self, tensor: Tensor) -> Tag:
        found: Tag = self.tags.get(tensor, _NOTHING)
        return found

    def inside(self) -> tuple[str, nn.Module]:
        return self.running[-1]

    def read(self, layer: str) -> Tensor:
        self.reached.add(layer)
        return self.sides.get((layer, "consumers"), self.sides[layer, "producers"])

    def written(self, layer: str) -> Tensor:
        return self.sides[layer, "producers"]

    def resize(self, module: str, attribute: str, labels: Tensor) -> None:
        self.sizings.setdefault((module, attribute), labels)

    def carried(self, norm: str, size: int) -> Tensor:
        known = self.sides.get((norm, "carriers"))
        return self.label("carriers", norm, size) if known is None else known

    def balance(self, pieces: Sequence[Tensor]) -> None:
        self.pieces.append(list(pieces))

    # ---- what a pass does

    def label(self, side: str, name: str, size: int, dim: int = 0) -> Tensor:
        """Make the labels of one side of a layer, or of one dimension of a parameter."""
        made = self.labels.new(size)
        self.segments.append(_Segment(int(made[0]) if size else self.labels.count, size, side, name, dim))
        self.sides[name, side] = made
        return made

    def record(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        """Give the results of a call their tags.

        Raises:
            InputError: the pass takes longer than any network's.
        """
        self.calls += 1
        if time.perf_counter() - self.started > SECONDS:
            raise InputError(
                f"it is not done after {SECONDS:g} s and {self.calls:,} operations, "
                f"in {self.running[-1][0] or 'its forward pass'}"
            )
        outputs = tuple(x for x in tree_leaves(out) if isinstance(x, Tensor))
        call = Call(_name(operation), _bound(operation, args, kwargs), outputs)
        tags = [self.tag(x) for x in call.tensors]
        made: Sequence[Tag]
        if any(tag.factors or tag.layer for tag in tags):
            made = self._ruled(operation, call, tags)
        else:
            makers = frozenset().union(*(tag.makers for tag in tags))
            made = [Tag((), makers, bool(tags) and all(tag.weight for tag in tags))] * len(outputs)
        for x, tag in zip(outputs, made, strict=True):
            # A factor that is the same everywhere tells entries apart no more.
            told = [f for f in tag.factors if support(f)]
            self.tags[x] = replace(tag, factors=tuple(disjoint(self.labels, told)))

    def _ruled(self, operation: Any, call: Call, tags: Sequence[Tag]) -> Sequence[Tag]:
        rule = rule_of(operation, call.name)
        reason = f"its channels meet {call.name}, which is not known to keep channels apart"
        if rule is not None:
            try:
                return rule(self, call)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                if exhausted(error):
                    raise
                reason = f"its channels meet {call.name} in a form that is not known to keep channels apart"
        self.labels.pin([f for tag in tags for f in tag.factors], reason)
        makers = frozenset().union(*(tag.makers for tag in tags))
        return [Tag((), makers)] * len(call.outputs)


_NOTHING = Tag()


def _name(operation: Any) -> str:
    namespace, _, name = str(operation._schema.name).partition("::")
    if namespace not in ("aten", "prims"):
        return f"{namespace}::{name}"
    in_place = name.endswith("_") and not name.endswith("__") and rule_of(operation, name[:-1]) is not None
    return name[:-1] if in_place else name


def _bound(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in operation._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every operation."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.trace.muted:
            return out
        self.trace.record(func, args, kwargs or {}, out)
        return out


def candidates(
    model: nn.Module, inputs: tuple[Tensor, ...], cut_padded: bool, embedding: bool
) -> list[Candidate]:
    """Run a network once and read off every group of coupled channels.

    Args:
        model: a copy that may be run in any mode.
        inputs: positional inputs.
        cut_padded: let channels leave that are padded with zeros.
        embedding: let channels leave that a LayerNorm normalises together.

    Raises:
        InputError: the network can't be run.
        MemoryError: there is not enough memory to run it.
    """
    trace = _labelled(model)
    trace.cut_padded, trace.embedding = cut_padded, embedding
    model.eval()
    try:
        _run(model, inputs, trace)
    except Exception as error:  # a forward pass raises whatever it likes
        if exhausted(error):
            raise MemoryError from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the network can't be traced with inputs of shape {[tuple(x.shape) for x in inputs]}: {reason}; "
            "give an example input that its forward pass accepts (--input-size)"
        ) from error
    if any(name not in trace.reached for name, _ in node_layers(model)):
        _run_in_training(model, inputs, trace)
    for name, _ in node_layers(model):
        if name not in trace.reached:
            trace.labels.pin(trace.written(name), "the traced pass does not reach it")
    return _read(trace, {name: number for number, (name, _) in enumerate(model.named_modules())})


def _run_in_training(model: nn.Module, inputs: tuple[Tensor, ...], trace: _Trace) -> None:
    """Reach what only training runs: auxiliary heads."""
    outputs, makers = list(trace.outputs), set(trace.makers)
    # Batch norm can't train on one input.
    several = tuple(torch.cat([x, x])[: max(2, len(x))] if x.dim() else x for x in inputs)
    try:
        _run(model.train(), several, trace)
    except Exception:  # a network that trains otherwise, on targets say, is cut as evaluation runs it
        trace.outputs[:], trace.makers = outputs, makers
    finally:
        model.eval()


def _run(model: nn.Module, inputs: tuple[Tensor, ...], trace: _Trace) -> None:
    with torch.no_grad(), torch.random.fork_rng(devices=[]), exact_arithmetic(), _followed(model, trace):
        with _Recorder(trace):
            outputs = model(*(x.clone() for x in inputs))
        for x in tree_leaves(outputs):
            if isinstance(x, Tensor):
                trace.outputs += trace.tag(x).factors
                trace.makers |= trace.tag(x).makers


@contextmanager
def _followed(model: nn.Module, trace: _Trace) -> Iterator[None]:
    """Keep track of which module is running."""
    with ExitStack() as stack:
        for name, module in model.named_modules():

            def enter(running: nn.Module, _: Any, name: str = name) -> None:
                trace.running.append((name, running))
                trace.reached.add(name)
                trace.muted += isinstance(running, Recurrent)

            def leave(running: nn.Module, args: Any, kwargs: Any, out: Any, name: str = name) -> None:
                trace.running.pop()
                trace.muted -= isinstance(running, Recurrent)
                if isinstance(running, Recurrent) and out is not None and not running.proj_size:
                    given = [*args, *kwargs.values()]
                    _pass_recurrent(trace, name, running, given, out)

            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks
            stack.callback(module.register_forward_pre_hook(enter).remove)
            leaving = module.register_forward_hook(leave, with_kwargs=True, always_call=True)
            stack.callback(leaving.remove)
        yield


def _labelled(model: nn.Module) -> _Trace:
    """Give every side of every layer, and every other parameter, labels of its own."""
    trace = _Trace()
    seen: set[int] = set()
    saved = set(model.state_dict())
    for name, layer in node_layers(model):
        written = trace.label("producers", name, out_width(layer))
        read = written if is_depthwise(layer) else trace.label("consumers", name, in_width(layer))
        if isinstance(layer, Recurrent):
            _tie_units(trace, layer, written, read)
            seen |= {id(x) for x in layer.parameters()}
        else:
            _tag_layer(trace, name, layer, written, read, seen)
    for name, module in model.named_modules():
        if isinstance(module, NORMS):
            _tag_norm(trace, name, module, seen)
    for name, x in (*model.named_parameters(), *model.named_buffers()):
        # What no state dict holds is not saved, and could not be loaded again in another size.
        if id(x) not in seen and x.is_floating_point() and name in saved:
            factors = [
                along(x.dim(), d, trace.label("loose", name, size, d))
                for d, size in enumerate(x.shape)
                if size > 1
            ]
            trace.tags[x] = Tag(tuple(factors), weight=True)
    return trace


def _tag_layer(
    trace: _Trace, name: str, layer: nn.Module, written: Tensor, read: Tensor, seen: set[int]
) -> None:
    for key, x in layer.named_parameters(recurse=False):
        if id(x) in seen:
            continue
        seen.add(id(x))
        if x.shape == written.shape:
            trace.tags[x] = Tag((written,), weight=True)
            continue
        if key not in ("weight", "in_proj_weight"):
            continue  # of a subclass of the user's own
        out, into = (1, 0) if isinstance(layer, ConvTranspose) else (0, 1)
        plain = conv_groups(layer) == 1
        factors = [along(x.dim(), out, written)] if plain or out == 0 else []
        factors += [along(x.dim(), into, read)] if plain else []
        trace.tags[x] = Tag(tuple(factors), weight=True, layer=name)


def _tie_units(trace: _Trace, layer: Recurrent, written: Tensor, read: Tensor) -> None:
    """All layers and directions of a recurrent layer are of one width: a unit leaves them all."""
    rows = written.reshape(-1, layer.hidden_size)
    trace.labels.tie(rows, rows[:1], "")
    trace.labels.tie(read[layer.input_size :], written, "")


def _pass_recurrent(trace: _Trace, name: str, layer: Recurrent, args: Sequence[Any], out: Any) -> None:
    """What a recurrent layer does to labels, seen from outside."""
    x, read, written = args[0], trace.read(name), trace.written(name)
    tags = [trace.tag(t) for t in tree_leaves(args) if isinstance(t, Tensor)]
    if not isinstance(x, Tensor) or any(arg is not None for arg in args[1:]):
        reason = "its channels meet a recurrent layer with a first state or with sequences of several lengths"
        trace.labels.pin([written, read, *(f for tag in tags for f in tag.factors)], reason)
        return
    factors, beside = trace.tag(x).factors, "its channels are read where none that could leave are"
    wide = [f for f in factors if support(f) == {x.dim() - 1}]
    trace.labels.pin(
        [f for f in factors if support(f) != {x.dim() - 1}], "its channels are laid out over steps"
    )
    if wide:
        trace.labels.tie(wide[0].flatten(), read[: layer.input_size], beside)
    elif x.shape[-1] > 1:
        trace.labels.pin(read[: layer.input_size], beside)
    units = written[: layer.hidden_size]
    for t in tree_leaves(out):
        labels = units.repeat(t.shape[-1] // layer.hidden_size)
        trace.tags[t] = Tag((along(t.dim(), t.dim() - 1, labels),), frozenset([name]))


def _tag_norm(trace: _Trace, name: str, module: nn.Module, seen: set[int]) -> None:
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    own = [x for _, x in tensors if x.is_floating_point() and x.dim() == 1 and id(x) not in seen]
    if own and len({len(x) for x in own}) == 1 and len(own[0]) > 1:
        labels = trace.label("carriers", name, len(own[0]))
        for x in own:
            seen.add(id(x))
            trace.tags[x] = Tag((labels,), weight=True)


# ---- from labels to groups


def _read(trace: _Trace, order: Mapping[str, int]) -> list[Candidate]:
    classes = _settled(trace)
    members: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, segment in enumerate(trace.segments):
        for offset, owner in enumerate(classes.of[segment.start : segment.start + segment.size].tolist()):
            members[owner].append((number, offset))
    put_out = set(_owners(classes, trace.outputs))
    alike: dict[Any, list[int]] = defaultdict(list)
    for owner, rows in members.items():
        if any(trace.segments[number].side == "producers" for number, _ in rows):
            key = (tuple(sorted(number for number, _ in rows)), classes.reasons.get(owner), owner in put_out)
            alike[key].append(owner)
    found = [
        _candidate(trace, owners, members, classes, key[1], key[2], order) for key, owners in alike.items()
    ]
    return _named(sorted(found, key=lambda c: (order[c.producers[0].layer], c.producers[0].channels)))


def _owners(classes: Classes, factors: Sequence[Tensor]) -> Iterator[int]:
    for labels in factors:
        yield from classes.of[labels[labels != FIXED].numpy()].tolist()


def _settled(trace: _Trace) -> Classes:
    """Tie together what was tied, and pin pieces of a split that turned out to differ."""
    classes = trace.labels.classes()
    reasons = dict(classes.reasons)
    for pieces in trace.pieces:
        kinds = [np.where(p == FIXED, FIXED, classes.of[p]) for p in (x.flatten().numpy() for x in pieces)]
        if any(len(kind) != len(kinds[0]) or (kind != kinds[0]).any() for kind in kinds):
            for kind in kinds:
                for owner in set(kind.tolist()):
                    reasons.setdefault(owner, "its channels are split")
    return Classes(classes.of, reasons)


def _candidate(
    trace: _Trace,
    owners: Sequence[int],
    members: Mapping[int, Sequence[tuple[int, int]]],
    classes: Classes,
    fault: str | None,
    is_output: bool,
    order: Mapping[str, int],
) -> Candidate:
    gate = {owner: number for number, owner in enumerate(owners)}
    rows: dict[int, dict[int, int]] = defaultdict(dict)
    for owner in owners:
        for number, offset in members[owner]:
            rows[number][offset] = gate[owner]
    sides: dict[str, list[Coupling]] = defaultdict(list)
    loose = []
    for number in sorted(rows):
        segment, mapping = trace.segments[number], rows[number]
        channels = tuple(sorted(mapping))
        gates = tuple(mapping[c] for c in channels)
        if segment.side == "loose":
            loose.append(Loose(segment.name, segment.dim, channels, gates))
        else:
            sides[segment.side].append(Coupling(segment.name, channels, gates))
    producers = sorted(sides["producers"], key=lambda c: order[c.layer])
    return Candidate(
        name=producers[0].layer,
        size=len(owners),
        producers=tuple(producers),
        consumers=tuple(sides["consumers"]),
        carriers=tuple(sides["carriers"]),
        loose=tuple(loose),
        sizes=tuple(_sizings(trace, classes, gate)),
        is_output=is_output or any(c.layer in trace.makers for c in producers),
        fault=fault,
    )


def _sizings(trace: _Trace, classes: Classes, gate: Mapping[int, int]) -> Iterator[Sizing]:
    for (module, attribute), labels in trace.sizings.items():
        owners = classes.of[labels.numpy()].tolist()
        if all(owner in gate for owner in owners):
            yield Sizing(module, attribute, tuple(range(len(owners))), tuple(gate[owner] for owner in owners))


def _named(found: Sequence[Candidate]) -> list[Candidate]:
    """Name channels after the layer that writes them first, and say which where it writes several kinds."""
    names = Counter(c.name for c in found)
    return [
        replace(c, name=f"{c.name}[{c.producers[0].channels[0]}]") if names[c.name] > 1 else c for c in found
    ]
