"""Scores of gates, and what they are taken on: samples, loss, batches and statistics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from structprune.choices import Accumulate, BatchNormMode
from structprune.distributed import ALONE, Crew
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
class Taken:
    """How many of the samples scored, and why no more did.

    Attributes:
        samples: that scored.
        offered: that there were.
        agreement: Spearman's correlation of the rankings of two halves of those that scored.
        enough: at which agreement no more samples are taken.
    """

    samples: int
    offered: int
    agreement: float
    enough: float

    def __str__(self) -> str:
        all_of_them = self.samples == self.offered
        some = f"all {self.samples:,}" if all_of_them else f"{self.samples:,} of the {self.offered:,}"
        how = f"two halves of them rank channels alike to {self.agreement:.3f} (Spearman)"
        if self.agreement >= self.enough:
            return f"{some} samples scored, since the ranking has settled: {how}, {self.enough} is enough"
        most = "there are no more" if all_of_them else "no more are taken"
        return f"{some} samples scored, {most}, and the ranking has not settled: {how}, below {self.enough}"


@dataclass(frozen=True)
class Scores:
    """How much each gate matters.

    Attributes:
        values: gate name -> tensor shaped like the gate, on the CPU, finite; larger = keep.
        criterion: what computed them.
        sums: what was summed over samples, with its sign, where the values are its magnitude and those of
            more samples are had by adding up; None where they are not.
        draws: how many draws of weights are in them.
        taken: how many of the samples scored, where they were not simply all.
    """

    values: Mapping[str, Tensor]
    criterion: str
    sums: Mapping[str, Tensor] | None = None
    draws: int = 0
    taken: Taken | None = None

    def plus(self, other: Scores) -> Scores:
        """Return the scores of both sets of samples together."""
        assert self.sums is not None
        assert other.sums is not None
        sums = {name: x + other.sums[name] for name, x in self.sums.items()}
        values = {name: x.abs() for name, x in sums.items()}
        return replace(self, values=values, sums=sums, draws=self.draws + other.draws)


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
    crew: Crew = ALONE

    @property
    def samples(self) -> int:
        """Number of scoring inputs."""
        return sum(len(batch) for batch in self.batches)

    @property
    def sharing(self) -> Crew:
        """The processes that share a unit: all share the total; of the other forms each has its own units."""
        return self.crew if self.accumulate == "total" else ALONE

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


def summed_up(sampling: Sampling, values: Mapping[str, Tensor], criterion: str) -> Scores:
    """File what :func:`accumulate` returned as scores; mini-batches' strengths are sums over samples."""
    scores = finished(values, criterion)
    return scores if sampling.accumulate == "total" else replace(scores, sums=scores.values)


def finished(values: Mapping[str, Tensor], criterion: str) -> Scores:
    """File values as scores: on the CPU, detached and finite.

    Raises:
        InputError: a score is NaN or infinite.
    """
    done = {name: value.detach().cpu() for name, value in values.items()}
    broken = [name for name, value in done.items() if not torch.isfinite(value).all()]
    if broken:
        raise InputError(
            f"the {criterion} score is not finite for {broken[0]} and {len(broken) - 1} more: the network's "
            "output or loss overflows on the scoring inputs; check the weights and how inputs are normalised"
        )
    return Scores(done, criterion)


def ranks(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace scores by their rank over the whole network, in (0, 1], ties averaged.

    Per-layer ranks would cancel what the score says about how wide each layer should be.
    """
    flat = torch.cat([value.flatten() for value in values.values()]).double()
    _, inverse, counts = torch.unique(flat, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean_rank = last - (counts.double() - 1) / 2
    ranked = (mean_rank / len(flat))[inverse].float()
    sizes = [value.numel() for value in values.values()]
    pieces = ranked.split(sizes)
    return {name: piece.reshape(values[name].shape) for name, piece in zip(values, pieces, strict=True)}


def within_groups(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace the scores of every group by their rank within it, in (0, 1).

    A global ranking of these takes the same rate from every group: what is done where a score says which
    filters of a layer matter but nothing about how wide the layer should be.

    Example:
        >>> within_groups({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([70.0, 90.0])})
        {'a': tensor([0.7500, 0.2500]), 'b': tensor([0.2500, 0.7500])}
    """
    return {
        name: (torch.argsort(torch.argsort(value.flatten(), stable=True)).float().reshape(value.shape) + 0.5)
        / value.numel()
        for name, value in values.items()
    }


def conserved(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Let the channels that stay in a group take over what those that leave before them counted for.

    Scores are derivatives at the whole network, and a group that has lost most of its channels can't
    spare the others as lightly: the sum of NTK-SAP's scores over a layer, like SynFlow's, is the same
    however many channels share it. So the k-th worst of a group's scores :math:`s_1 \le s_2 \le ...` counts

    .. math:: s_k \, \frac{\sum_j s_j}{\sum_{j \ge k} s_j}

    in the ranking of the whole network. The order within a group stays what it is.

    Args:
        values: group -> (C,) scores; those with a negative one in them are returned as they are.

    Example:
        >>> conserved({"a": torch.tensor([1.0, 3.0, 4.0])})["a"]
        tensor([1.0000, 3.4286, 8.0000])
    """
    if any(bool((value < 0).any()) for value in values.values()):
        return dict(values)
    return {name: _taken_over(value) for name, value in values.items()}


def _taken_over(scores_C: Tensor) -> Tensor:
    worst_first, order = torch.sort(scores_C.double(), stable=True)
    left = worst_first.flip(0).cumsum(0).flip(0)  # summed from the end, so that the last is itself exactly
    heavier = torch.where(left > 0, worst_first * (left[0] / left), worst_first)
    return torch.empty_like(heavier).scatter_(0, order, heavier).to(scores_C.dtype)


def reordered(values: Mapping[str, Tensor], order: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Lay the values of one score in the order of another, group by group.

    What comes out ranks the channels of a group as ``order`` does, and the groups as ``values`` do: so two
    scores can be fused of which one says how wide a layer should be and the other only what to keep of it.

    Example:
        >>> reordered({"a": torch.tensor([5.0, 6.0, 7.0])}, {"a": torch.tensor([0.3, 0.1, 0.2])})
        {'a': tensor([7., 5., 6.])}
    """
    laid = {}
    for name, value in values.items():
        places = torch.argsort(order[name].flatten(), stable=True)
        laid[name] = torch.empty_like(value).flatten().scatter_(0, places, value.flatten().sort().values)
    return {name: value.reshape(values[name].shape) for name, value in laid.items()}


def fuse(scores: Sequence[Scores], widths: str | None = None) -> Scores:
    """Fuse scores of different criteria: the mean of their ranks over the whole network.

    Raw scores differ by many orders of magnitude and are never added.

    Args:
        scores: of the same gates.
        widths: the criterion that alone says how much of each group stays; the others then take part in
            what of the group. None: all say both.

    Example:
        >>> a = Scores({"conv": torch.tensor([1.0, 2.0, 3.0])}, "a")
        >>> b = Scores({"conv": torch.tensor([9e6, 1e6, 5e6])}, "b")
        >>> fuse([a, b]).values["conv"]
        tensor([0.6667, 0.5000, 0.8333])
    """
    if len(scores) == 1:
        return scores[0]
    name, draws = "+".join(score.criterion for score in scores), max(score.draws for score in scores)
    taken = next((score.taken for score in scores if score.taken is not None), None)
    leading = next((score for score in scores if score.criterion == widths), None)
    if leading is not None:
        scores = [replace(score, values=reordered(leading.values, score.values)) for score in scores]
    ranked = [ranks(score.values) for score in scores]
    mean = {gate: torch.stack([r[gate] for r in ranked]).mean(0) for gate in ranked[0]}
    return Scores(mean, name, draws=draws, taken=taken)


def per_channel(weight_scores_OIkk: Tensor) -> Tensor:
    """Return the mean score per output channel of scores shaped like a weight, (O,).

    A mean and not a sum: fan-ins differ by orders of magnitude between layers.
    """
    return weight_scores_OIkk.flatten(1).mean(1)
