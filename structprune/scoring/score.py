"""What a channel is worth: gate, and score by one criterion or several. No weight is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups
from structprune.choices import CHOICES, Accumulate, Labels
from structprune.errors import InputError, TargetUnreachableError, UsageError
from structprune.nn.batch_norm import buffers_kept, collect_statistics, evaluating
from structprune.nn.precision import exact_arithmetic
from structprune.pruning.gates import GatedModel, gate_channels, gate_weights
from structprune.pruning.layer_inputs import input_sizes
from structprune.scoring.constant import check_varying
from structprune.scoring.criteria import DEFAULT, named, needed, parts
from structprune.scoring.fusion import conserved, fuse, within_groups
from structprune.scoring.losses import NoLoss
from structprune.scoring.rows import fitting_rows, in_rows
from structprune.scoring.samples import Samples
from structprune.scoring.sampling import MINI_BATCH, Sampling, mini_batches_of, with_drawn_labels
from structprune.scoring.scores import Scores
from structprune.scoring.settling import settled

DEFAULT_DRAWS = 5
TRAINED_MINI_BATCH = 4
WIDTHS_BY = "crop"
"""Of a fusion on a trained network, what says how wide each group stays; NTK-SAP there says what of it."""

# Peak memory of |H g| per sample is 6 to 16 times the inputs of the conv and linear layers, by how many
# operations lie between them; a pass is to stay below this many bytes.
_BYTES_PER_PASS = 1.6e9
_BYTES_PER_INPUT_BYTE = 15


@dataclass(frozen=True)
class Scoring:
    """How a network is scored.

    Attributes:
        score: a criterion, or a fusion of several: ``"ntk_sap+crop"``.
        trained: whether the network counts as trained.
        accumulate: of criteria of the loss; None: per mini-batch in absolute value where the network is
            trained, since its total gradient is nearly zero; else the total, as in the papers.
        batch_norm: ``fixed`` statistics, or ``batch`` for those of every mini-batch.
        draws: weight draws of NTK-SAP, at least.
        mini_batch: samples whose derivatives are summed before ``abs`` and ``square`` are taken; it
            changes the score. None: 4 where the network is trained, else 16.
        labels: ``given`` with the samples, or ``drawn`` from what the network itself predicts. None: drawn
            where the network is trained and a classifier.
        allocation: how much of each group goes. ``global`` ranks the whole network, ``conserved`` does so
            with scores that grow as their group narrows, ``uniform`` takes the same rate from every group.
            None: conserved where the network is trained, else global.
        widths: the criterion of a fusion that alone says how much of each group goes, or ``all``. None: |H g|
            where the network is trained, else all.
        chunk: samples per pass, or None for as many as fit well into memory; no score depends on it.
        steps: 1 for one shot, more to rescore the shrunk network in between.
        seed: of everything random.
    """

    score: str = DEFAULT
    trained: bool = False
    accumulate: Accumulate | None = None
    batch_norm: str = "fixed"
    draws: int = DEFAULT_DRAWS
    chunk: int | None = None
    steps: int = 1
    seed: int = 0
    mini_batch: int | None = None
    labels: Labels | None = None
    allocation: str | None = None
    widths: str | None = None

    def __post_init__(self) -> None:
        named(self.score)  # an unknown name is better refused before any work
        for option in ("accumulate", "batch_norm", "labels", "allocation"):
            if (value := getattr(self, option)) is not None and value not in CHOICES[option]:
                raise UsageError(f"unknown {option} {value!r}; known: {', '.join(CHOICES[option])}")
        for option in ("draws", "steps", "chunk"):
            if (number := getattr(self, option)) is not None and number < 1:
                raise UsageError(f"{option} {number}: expected a number from 1 on")
        names = parts(self.score)
        if self.widths not in (None, "all", *names):
            raise UsageError(
                f"widths {self.widths!r} is no part of {self.score}; known: all, {', '.join(names)}"
            )
        if self.mini_batch is not None and self.mini_batch < 2:
            raise UsageError(f"mini-batches of {self.mini_batch} can't be normalised; give at least 2")


def score(
    model: nn.Module, groups: ChannelGroups, samples: Samples, scoring: Scoring, telling: bool = False
) -> Scores:
    """Score every channel of every group.

    Args:
        model: the network; it is left bit for bit as it was.
        groups: its groups of channels.
        samples: what it is scored on.
        scoring: how.
        telling: whether to refuse what the network was run for and which is the same for all channels; that
            weights are all alike is a finding, that derivatives are is none.

    Returns:
        group name -> (C,) scores, larger = keep: of one criterion its own values, of a fusion what
        :func:`choose` goes by.
    """
    found = _by_criterion(model, groups, samples, scoring)
    for scores, need in zip(found, needed(scoring.score), strict=True):
        if telling and need.inputs != "none":
            check_varying(scores)
    return found[0] if len(found) == 1 else _allocated(found, scoring)


def order(model: nn.Module, groups: ChannelGroups, samples: Samples, scoring: Scoring) -> Scores:
    """Score channels so that groups compare as the allocation has it: what :func:`choose` goes by.

    Raises:
        InputError: a criterion ranks nothing, since its scores are all the same.
    """
    found = _by_criterion(model, groups, samples, scoring)
    for scores in found:
        check_varying(scores, within=scoring.allocation == "uniform")
    return _allocated(found, scoring)


def _by_criterion(
    model: nn.Module, groups: ChannelGroups, samples: Samples, scoring: Scoring
) -> list[Scores]:
    check_groups(groups)
    chunk = scoring.chunk or _own_chunk(model, samples, scoring)
    # On inputs: derivatives of gates on weights need those of whole weights, which takes a third longer.
    gated = gate_channels(model, groups)
    found = _scored(gated, samples, scoring, chunk)
    for scores in found:
        _check(scores, groups)
    return found


def _allocated(found: Sequence[Scores], scoring: Scoring) -> Scores:
    """Make one score of several, comparable between groups as the allocation says."""
    allocation = scoring.allocation or ("conserved" if scoring.trained else "global")
    if allocation == "conserved":
        found = [replace(scores, values=conserved(scores.values)) for scores in found]
    widths = scoring.widths or (WIDTHS_BY if scoring.trained else "all")
    fused = fuse(found, None if widths == "all" else widths)
    return replace(fused, values=within_groups(fused.values)) if allocation == "uniform" else fused


def score_weights(
    model: nn.Module, samples: Samples, scoring: Scoring, masks: Mapping[str, Tensor] | None = None
) -> Scores:
    """Score every entry of every conv and linear weight.

    Args:
        model: the network, plain; where weights are masked, with what lies under the masks.
        samples: what it is scored on.
        scoring: how.
        masks: parameter name -> what is still there, or None.

    Returns:
        parameter name -> scores of its shape, larger = keep.
    """
    chunk = scoring.chunk or _own_chunk(model, samples, scoring)
    found = _scored(gate_weights(model, masks), samples, scoring, chunk)
    for scores in found:
        check_varying(scores)
    return fuse(found)


def _scored(gated: GatedModel, samples: Samples, scoring: Scoring, chunk: int) -> list[Scores]:
    """Score by each of the criteria that a score names, all on the same samples and statistics."""
    size = scoring.mini_batch or (TRAINED_MINI_BATCH if scoring.trained else MINI_BATCH)
    if size != MINI_BATCH and scoring.batch_norm != "batch":
        samples = replace(samples, batches=mini_batches_of(samples.batches, size))
    check_loss(samples, scoring)
    sampling = Sampling(
        batches=samples.batches,
        loss=samples.loss,
        forward=samples.forward,
        chunk=chunk,
        accumulate=scoring.accumulate or ("abs" if scoring.trained else "total"),
        batch_norm="batch" if scoring.batch_norm == "batch" else "fixed",
        trained=scoring.trained,
        real=samples.real,
        draws=scoring.draws,
        seed=scoring.seed,
        crew=samples.crew,
    )
    labels: Labels = _labels(samples, scoring) if takes_loss(scoring) else "given"
    with exact_arithmetic():
        if not scoring.trained and sampling.batch_norm == "fixed" and _runs_on(scoring, "own"):
            sampling = replace(sampling, statistics=_statistics(gated, sampling))
        if sampling.accumulate != "total" and _runs_on(scoring, "own"):
            gated = in_rows(gated, sampling)
        if gated.axes is not None and scoring.chunk is None:
            sampling = replace(sampling, chunk=fitting_rows(gated, sampling))

        def scored(part: Sampling) -> list[Scores]:
            try:
                return _of_criteria(gated, part, scoring, labels)
            except (RuntimeError, ValueError):
                if gated.axes is None:
                    raise
                # What it takes of its inputs depends on them after all: one mini-batch at a time, then.
                return _of_criteria(replace(gated, axes=None), part, scoring, labels)

        if not (scoring.trained and gated.flow == "gates" and _adds_up(scoring, sampling)):
            return scored(sampling)
        return settled(sampling, scored, lambda found: _allocated(found, scoring))


def _of_criteria(gated: GatedModel, sampling: Sampling, scoring: Scoring, labels: Labels) -> list[Scores]:
    if labels == "drawn":
        sampling = with_drawn_labels(gated, sampling)
    return [criterion(gated, sampling) for criterion in named(scoring.score)]


def _adds_up(scoring: Scoring, sampling: Sampling) -> bool:
    return sampling.accumulate != "total" and all(each.adds_up for each in needed(scoring.score))


def _labels(samples: Samples, scoring: Scoring) -> Labels:
    return scoring.labels or ("drawn" if scoring.trained and samples.classes else "given")


def takes_loss(scoring: Scoring) -> bool:
    """Tell whether a score takes a loss, of whatever targets."""
    return any(each.targets for each in needed(scoring.score))


def takes_targets(samples: Samples, scoring: Scoring) -> bool:
    """Tell whether a score takes the loss of the targets that were given."""
    return takes_loss(scoring) and _labels(samples, scoring) == "given"


def check_loss(samples: Samples, scoring: Scoring) -> None:
    """Refuse a score of the loss where none is known.

    Raises:
        InputError: saying what the network puts out, and what to give.
    """
    if takes_loss(scoring) and isinstance(samples.loss, NoLoss):
        samples.loss(None, None)


def loss_of(samples: Samples, scoring: Scoring) -> str | None:
    """Name the loss that scores, and why it is this one; None where the score takes none."""
    return samples.objective if takes_loss(scoring) else None


def about_loss(samples: Samples, scoring: Scoring) -> tuple[str, ...]:
    """Say which loss scored, where it is not what everybody expects."""
    said = loss_of(samples, scoring)
    return (f"scored with {said}",) if said and samples.notable else ()


def _runs_on(scoring: Scoring, *kinds: str) -> bool:
    return any(each.inputs in kinds for each in needed(scoring.score))


def _own_chunk(model: nn.Module, samples: Samples, scoring: Scoring) -> int:
    """Samples per pass; what never runs the network is not made to for finding out how many."""
    return fitting_chunk(model, samples) if _runs_on(scoring, "own", "shape") else MINI_BATCH


def check_groups(groups: ChannelGroups) -> None:
    """Refuse a network of which nothing can be cut, with the reasons.

    Raises:
        TargetUnreachableError: there are no groups.
    """
    if not len(groups):
        reasons = "; ".join(f"{row.layer}: {row.reason}" for row in groups.protected[:4])
        raise TargetUnreachableError(f"nothing in this network can be cut: {reasons or 'it has no layers'}")


def _check(scores: Scores, groups: ChannelGroups) -> None:
    """Refuse what a criterion, perhaps a plug-in's, must not give."""
    for group in groups:
        values = scores.values.get(group.name)
        if values is None or values.shape != (group.size,) or not torch.isfinite(values).all():
            got = "nothing" if values is None else f"{tuple(values.shape)}, or values that are not finite,"
            raise InputError(
                f"the criterion {scores.criterion!r} gives {got} for {group.name}; "
                f"expected one finite score for each of its {group.size} channels"
            )


def _statistics(gated: GatedModel, sampling: Sampling) -> dict[str, Tensor]:
    open_gates = gated.ones(requires_grad=False)
    return collect_statistics(
        gated.model,
        lambda buffers, batch: sampling.run(gated, open_gates, batch.inputs, buffers=buffers),
        sampling.batches,
    )


def fitting_chunk(model: nn.Module, samples: Samples) -> int:
    """Return how many samples a pass takes: a power of two, or a whole mini-batch; the same everywhere."""
    one = _input_bytes(model, samples)
    fitting = max(1, int(_BYTES_PER_PASS / (_BYTES_PER_INPUT_BYTE * max(one, 1))))
    largest = max(len(batch) for batch in samples.batches)
    return min(1 << (fitting.bit_length() - 1), largest)


def _input_bytes(model: nn.Module, samples: Samples) -> int:
    """Return the bytes of all layers' inputs for one sample, from a pass over two."""
    few = tuple(x[:2] for x in samples.batches[0].inputs)
    with torch.no_grad(), evaluating(model), buffers_kept(model):
        sizes = input_sizes(model, lambda: samples.forward(model, few))
    return sum(size // len(few[0]) for size in sizes.values())
