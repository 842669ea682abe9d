"""What scores are taken on: mini-batches, loss, statistics, and how they are run through gates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from structprune.choices import Accumulate, BatchNormMode
from structprune.distributed import SINGLE_PROCESS, ProcessGroup
from structprune.errors import InputError
from structprune.nn.batch_norm import Statistics, evaluating
from structprune.pruning.gates import GatedModel, Gates

Term = Callable[[Gates], Tensor]
"""Gates to a scalar: one chunk's share of a loss."""


@dataclass(frozen=True)
class Batch:
    """A mini-batch: positional inputs of the forward pass, and the target of the loss."""

    inputs: tuple[Tensor, ...]
    target: Any

    def __len__(self) -> int:
        return len(self.inputs[0])

    def chunks(self, size: int) -> Iterator[Batch]:
        """Split along the samples; a target that is no tensor can't be split and is refused."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Batch(tuple(x[part] for x in self.inputs), self.target[part])

    def mini_batches(self, size: int) -> Iterator[Batch]:
        """Split into mini-batches that can normalise themselves: two samples each at least.

        One sample alone has no variance where maps are 1x1, so a remainder of one joins the last.
        """
        size = max(2, size)
        whole = len(self) - (size + 1 if len(self) > size and len(self) % size == 1 else 0)
        bounds = [*range(0, whole, size), *([whole] if whole < len(self) else []), len(self)]
        for start, end in itertools.pairwise(bounds):
            yield Batch(tuple(x[start:end] for x in self.inputs), self.target[start:end])


MINI_BATCH = 16


def mini_batches_of(given: Sequence[Batch], size: int = MINI_BATCH) -> tuple[Batch, ...]:
    """Deal samples anew into mini-batches that can normalise themselves, whatever batches they came in.

    Batches of inputs that differ in shape stay apart.
    """
    runs: list[list[Batch]] = []
    for batch in given:
        if runs and _form(runs[-1][0]) == _form(batch):
            runs[-1].append(batch)
        else:
            runs.append([batch])
    return tuple(one for run in runs for one in _joined(run).mini_batches(size))


def _form(batch: Batch) -> list[tuple[Any, ...]]:
    return [(x.shape[1:], x.dtype) for x in (*batch.inputs, batch.target)]


def _joined(run: Sequence[Batch]) -> Batch:
    inputs = tuple(torch.cat(column) for column in zip(*(batch.inputs for batch in run), strict=True))
    return Batch(inputs, torch.cat([batch.target for batch in run]))


@dataclass(frozen=True)
class Sampling:
    """What a criterion is taken on, and how the samples are put together.

    Attributes:
        batches: mini-batches; changing their size changes the score.
        loss: (output, target) -> mean loss over the samples.
        forward: (network, inputs) -> output that ``loss`` takes.
        chunk: samples per pass; changes memory and never the score.
        accumulate: ``total`` sums derivatives over all samples before the criterion is formed, ``abs``
            and ``square`` form it per mini-batch and sum absolute values or squares.
        batch_norm: ``fixed`` statistics, or ``batch`` for those of each mini-batch, which is then one chunk.
        statistics: batch-norm buffers that stand in for the model's own, or None.
        trained: whether the network is trained.
        real: whether the inputs are data and not noise.
        draws: weight draws of NTK-SAP, at least.
        seed: of everything random.
        temperature: the network's floating-point outputs are divided by it before the loss is taken.
        crew: the processes among which the mini-batches are dealt, each scored whole.
    """

    batches: tuple[Batch, ...]
    loss: Callable[[Any, Any], Tensor]
    forward: Callable[[Callable[..., Any], tuple[Tensor, ...]], Any] = lambda network, inputs: network(
        *inputs
    )
    chunk: int = 16
    accumulate: Accumulate = "total"
    batch_norm: BatchNormMode = "fixed"
    statistics: Statistics | None = None
    trained: bool = False
    real: bool = False
    draws: int = 5
    seed: int = 0
    temperature: float = 1.0
    crew: ProcessGroup = SINGLE_PROCESS

    @property
    def samples(self) -> int:
        """Number of scoring inputs."""
        return sum(len(batch) for batch in self.batches)

    @property
    def sharing(self) -> ProcessGroup:
        """The processes that share a unit: all share the total; of the other forms each has its own units."""
        return self.crew if self.accumulate == "total" else SINGLE_PROCESS

    def units(self) -> Iterator[tuple[Batch, ...]]:
        """Yield the sets of mini-batches whose derivatives are summed before the criterion is formed."""
        if self.accumulate == "total":
            yield self.batches
        else:
            yield from ((batch,) for batch in self.crew.deal(self.batches))

    def terms(self, gated: GatedModel, batches: Sequence[Batch], **stand_ins: Any) -> list[Term]:
        """Return functions of the gates, one a chunk, whose sum is the mean loss over the batches.

        Args:
            gated: the network with its gates.
            batches: mini-batches of this sampling.
            **stand_ins: ``parameters`` or ``buffers`` that stand in for the network's own, or ``scaled``
                weights that stand in for the products with the gates.
        """
        total = sum(len(batch) for batch in batches)
        whole = self.batch_norm == "batch"
        batches = self.sharing.deal(batches)
        chunks = [c for batch in batches for c in batch.chunks(len(batch) if whole else self.chunk)]
        return [self._term(gated, chunk, len(chunk) / total, stand_ins) for chunk in chunks]

    def passes(self, gated: GatedModel) -> Iterator[tuple[dict[str, Tensor], list[Term]]]:
        """Yield gates, and functions of them whose sum is a loss; all derivatives are taken of these.

        Of ``total`` it is one loss, of all samples. Else there is one for every mini-batch, or, where the
        network can tell which of its samples is whose, for several mini-batches side by side: then the gates
        have a row for each, and the loss is the sum of theirs, so that gradient and Hessian fall apart into
        each mini-batch's own.
        """
        rows = self._rows(gated)
        for unit in self.units() if rows is None else _side_by_side(self.crew.deal(self.batches), rows):
            terms = self.terms(gated, unit) if rows is None else [self._side_by_side(gated, unit)]
            yield gated.ones(rows=rows and len(unit)), terms

    def _rows(self, gated: GatedModel) -> int | None:
        """Return how many mini-batches a pass takes side by side, or None where it takes one of them."""
        if self.accumulate == "total" or self.batch_norm == "batch" or gated.axes is None:
            return None
        rows = self.chunk // max(len(batch) for batch in self.batches)
        return rows if rows > 1 else None

    def _side_by_side(self, gated: GatedModel, unit: Sequence[Batch]) -> Term:
        inputs = tuple(torch.cat(column) for column in zip(*(batch.inputs for batch in unit), strict=True))

        def term(gates: Gates) -> Tensor:
            outputs = split_rows(self.run(gated, gates, inputs), len(unit))
            own = [
                self.loss(_cooled(output, self.temperature), batch.target)
                for output, batch in zip(outputs, unit, strict=True)
            ]
            return torch.stack(own).sum()

        return term

    def run(self, gated: GatedModel, gates: Gates, inputs: tuple[Tensor, ...], **stand_ins: Any) -> Any:
        """Run the gated network through ``forward`` with the statistics that apply."""
        buffers = stand_ins.pop("buffers", self.statistics)
        return self.forward(lambda *args: gated(gates, args, buffers=buffers, **stand_ins), inputs)

    def _term(self, gated: GatedModel, chunk: Batch, share: float, stand_ins: Mapping[str, Any]) -> Term:
        def term(gates: Gates) -> Tensor:
            output = _cooled(self.run(gated, gates, chunk.inputs, **stand_ins), self.temperature)
            return self.loss(output, chunk.target) * share

        return term


def _side_by_side(batches: Sequence[Batch], rows: int) -> Iterator[tuple[Batch, ...]]:
    """Put mini-batches of one form together, as many as a pass takes."""
    for _, alike in itertools.groupby(batches, lambda batch: [(x.shape, x.dtype) for x in batch.inputs]):
        run = tuple(alike)
        yield from (run[start : start + rows] for start in range(0, len(run), rows))


def split_rows(output: Any, rows: int) -> list[Any]:
    """Split every tensor of an output along its samples, into as many outputs as there are mini-batches.

    Raises:
        ValueError: a tensor can't be split so.
    """
    leaves, form = tree_flatten(output)
    columns = [_split_leaf(leaf, rows) for leaf in leaves]
    return [tree_unflatten(list(row), form) for row in zip(*columns, strict=True)]


def _split_leaf(leaf: Any, rows: int) -> Sequence[Any]:
    if not isinstance(leaf, Tensor):
        return [leaf] * rows
    if leaf.dim() == 0 or len(leaf) % rows:
        raise ValueError(f"an output of shape {tuple(leaf.shape)} is not {rows} mini-batches side by side")
    return leaf.chunk(rows)


def _cooled(output: Any, temperature: float) -> Any:
    """Divide every floating-point tensor of an output by the temperature."""
    if temperature == 1:
        return output

    def cool(leaf: Any) -> Any:
        return leaf / temperature if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return tree_map(cool, output)


def with_drawn_labels(gated: GatedModel, sampling: Sampling) -> Sampling:
    """Draw every label from the network's own prediction, softmax of its output.

    Gradients of labels that the network believes in have the Fisher information as their second moment,
    whatever the data are labelled with.

    Args:
        gated: the network with its gates.
        sampling: what it is scored on; the network's outputs are class scores (N, K, ...).

    Raises:
        InputError: the outputs are no such thing.
    """
    generator = torch.Generator().manual_seed(sampling.seed)
    gates = gated.ones(requires_grad=False)
    size = None if sampling.batch_norm == "batch" else sampling.chunk

    def draw(batch: Batch) -> Batch:
        chunks = batch.chunks(size or len(batch))
        outputs = torch.cat([_class_scores(sampling.run(gated, gates, chunk.inputs)) for chunk in chunks])
        shares = outputs.float().softmax(1).movedim(1, -1)
        drawn = torch.multinomial(shares.reshape(-1, shares.shape[-1]).cpu(), 1, generator=generator)
        return Batch(batch.inputs, drawn.reshape(shares.shape[:-1]).to(outputs.device))

    def drawn(batches: Sequence[Batch]) -> Iterator[Batch]:
        if gated.axes is None or size is None:  # samples may know of the others of their mini-batch
            yield from map(draw, batches)
            return
        for several in _side_by_side(batches, max(1, size // max(map(len, batches)))):
            whole = draw(_joined(several))
            yield from whole.chunks(len(several[0]))

    with torch.no_grad(), evaluating(gated.model, sampling.batch_norm):
        return replace(sampling, batches=tuple(drawn(sampling.batches)))


def _class_scores(output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() < 2 or not output.is_floating_point():
        raise InputError(
            "labels can only be drawn from class scores (N, K, ...); this network's output is "
            f"{tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__}"
        )
    return output


def accumulate(
    sampling: Sampling, signed: Iterator[dict[str, Tensor]], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Sum absolute values or squares of signed scores, one dict a unit.

    ``total`` has one unit, of all samples: its absolute value is the papers' form. Of several processes
    the total is summed before the absolute value, and the others after it.

    Args:
        sampling: says how, and among which processes.
        signed: this process's units.
        like: tensors of the scores' shapes.
    """
    strength = torch.square if sampling.accumulate == "square" else torch.abs
    if sampling.accumulate == "total":
        return {name: value.abs() for name, value in sampling.crew.total(next(signed)).items()}
    sums: dict[str, Tensor] = {}
    for values in signed:
        for name, value in values.items():
            strong = strength(value).sum_to_size(like[name].shape)  # of mini-batches side by side a row each
            sums[name] = sums[name] + strong if name in sums else strong
    return sampling.crew.total(sums or {name: torch.zeros_like(x) for name, x in like.items()})
