"""One forward pass whose tensors carry labels, and the groups of channels that come of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from structprune.channels.candidates import Candidate, read_off
from structprune.channels.labelling import labelled
from structprune.channels.labels import Tag, along, support
from structprune.channels.sandbox import Limits, exhausted
from structprune.channels.sizes import Sizes, watched
from structprune.channels.trace import SECONDS, Trace
from structprune.errors import InputError, argument
from structprune.nn.layers import Norm, Recurrent, node_layers
from structprune.nn.outputs import tensors_of
from structprune.nn.precision import exact_arithmetic

LIMITS = Limits(seconds=SECONDS + 10, bytes=4 << 30)
"""What its process may take: an operation that never comes back is ended too."""

UNREACHED = "the traced pass does not reach it"
"""Why channels stay that no operation was seen to make."""


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every operation."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No need: nothing is compiled here, and where torch asks it imports its compiler, for a second."""
        return False

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
    model.eval()
    try:
        trace = _traced(model, inputs, cut_padded, embedding, sized=True)
    except Exception as error:  # code that takes nothing but plain numbers, perhaps
        if exhausted(error):
            raise MemoryError from error
        trace = _traced_plainly(model, inputs, cut_padded, embedding)
    if any(name not in trace.reached for name, _ in node_layers(model)):
        _run_in_training(model, inputs, trace)
    for name, _ in node_layers(model):
        if name not in trace.reached:
            trace.labels.pin(trace.written(name), UNREACHED)
    return read_off(trace, {name: number for number, (name, _) in enumerate(model.named_modules())})


def _traced_plainly(model: nn.Module, inputs: tuple[Tensor, ...], cut_padded: bool, embedding: bool) -> Trace:
    try:
        return _traced(model, inputs, cut_padded, embedding, sized=False)
    except Exception as error:  # a forward pass raises whatever it likes
        if exhausted(error):
            raise MemoryError from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the network can't be traced with inputs of shape {[tuple(x.shape) for x in inputs]}: {reason}; "
            f"give an example input that its forward pass accepts ({argument('input_size')})"
        ) from error


def _traced(
    model: nn.Module, inputs: tuple[Tensor, ...], cut_padded: bool, embedding: bool, sized: bool
) -> Trace:
    trace = labelled(model)
    trace.cut_padded, trace.embedding, trace.sized = cut_padded, embedding, sized
    _run(model, inputs, trace)
    return trace


def _run_in_training(model: nn.Module, inputs: tuple[Tensor, ...], trace: Trace) -> None:
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


def _run(model: nn.Module, inputs: tuple[Tensor, ...], trace: Trace) -> None:
    with torch.no_grad(), torch.random.fork_rng(devices=[]), exact_arithmetic(), _followed(model, trace):
        with _Recorder(trace), _sizes_watched(model, trace):
            outputs = model(*(x.clone() for x in inputs))
        results = tensors_of(outputs)
        trace.use(results)
        for x in results:
            trace.outputs += trace.tag(x).factors
            trace.makers |= trace.tag(x).makers


@contextmanager
def _sizes_watched(model: nn.Module, trace: Trace) -> Iterator[None]:
    if not trace.sized:
        yield
        return
    with watched(model, trace.labels, trace.sides), Sizes(trace):
        yield


@contextmanager
def _followed(model: nn.Module, trace: Trace) -> Iterator[None]:
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
                given = [*args, *kwargs.values()]
                if isinstance(running, Recurrent) and out is not None and (name, "producers") in trace.sides:
                    _pass_recurrent(trace, name, running, given, out)
                elif isinstance(running, (Norm, nn.GroupNorm)) and out is not None:
                    _pass_norm(trace, name, running, given[0])

            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks
            stack.callback(module.register_forward_pre_hook(enter).remove)
            leaving = module.register_forward_hook(leave, with_kwargs=True, always_call=True)
            stack.callback(leaving.remove)
        yield


def _pass_norm(trace: Trace, name: str, norm: Norm | nn.GroupNorm, x: Any) -> None:
    """A norm counts the channels of what it gets, though it may have no number for each."""
    unbatched = getattr(norm, "_get_no_batch_dim", None)
    dim = x.dim() - unbatched() if unbatched else 1
    for factor in trace.tag(x).factors:
        if support(factor) == {dim}:
            carried = trace.carried(name, x.shape[dim])
            trace.labels.tie(factor.flatten(), carried, "its channels meet a norm whose numbers stay")


def _pass_recurrent(trace: Trace, name: str, layer: Recurrent, args: Sequence[Any], out: Any) -> None:
    """What a recurrent layer or cell does to labels, seen from outside."""
    x, read, written = args[0], trace.read(name), trace.written(name)
    if not isinstance(x, Tensor):
        tags = [trace.tag(t) for t in tree_leaves(args) if isinstance(t, Tensor)]
        reason = "its channels meet a recurrent layer with sequences of several lengths"
        trace.labels.pin([written, read, *(f for tag in tags for f in tag.factors)], reason)
        return
    beside = "its channels are read where none that could leave are"
    _read_last(trace, x, read[: layer.input_size], beside)
    units = written[: layer.hidden_size]
    for state in tree_leaves(args[1:]):
        if isinstance(state, Tensor):
            _read_last(trace, state, units, "its channels meet a first state that stays as wide as it is")
    for t in tree_leaves(out):
        labels = units.repeat(t.shape[-1] // layer.hidden_size)
        trace.tags[t] = Tag((along(t.dim(), t.dim() - 1, labels),), frozenset([name]))


def _read_last(trace: Trace, x: Tensor, read: Tensor, reason: str) -> None:
    """Tie what lies along the last dimension to what a layer reads there."""
    factors = trace.tag(x).factors
    wide = [f for f in factors if support(f) == {x.dim() - 1}]
    laid = [f for f in factors if support(f) != {x.dim() - 1}]
    trace.labels.pin(laid, "its channels are laid out over steps")
    if wide:
        trace.labels.tie(wide[0].flatten(), read, reason)
    elif x.shape[-1] > 1:
        trace.labels.pin(read, reason)
