"""The Python interface: keyword arguments in front of the pipeline, and the exporters handed to it."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from torch import Tensor, nn

from structprune.api.arguments import check_callable, check_loss_given, check_network
from structprune.api.compressed import Compressed
from structprune.api.inputs import example_tuple, limits_of, samples_from
from structprune.api.messages import called_from_python
from structprune.channels import ChannelGroups
from structprune.channels.scope import Scope
from structprune.choices import CHOICES, Accumulate, Exporter, Labels
from structprune.errors import InputError, UsageError
from structprune.hardware.profile import DeviceProfile, read_profile, this_machine
from structprune.models.architecture import Architecture, build_on_meta
from structprune.models.identify import mismatch, num_classes, shapes_of
from structprune.models.naming import architecture_named
from structprune.nn.folding import folded
from structprune.nn.trained import is_trained
from structprune.proofs.trial_cut import TRIAL_INPUTS, cuttable_groups
from structprune.reconstruction import asked_for, decided
from structprune.report.protocols import Tools
from structprune.scoring.criteria import DEFAULT
from structprune.scoring.losses import Loss
from structprune.scoring.samples import (
    DEFAULT_SAMPLES,
    Forward,
    inputs_like,
    inputs_of,
)
from structprune.scoring.score import DEFAULT_DRAWS, Scoring, about_loss
from structprune.scoring.score import score as score_channels
from structprune.scoring.scores import Scores
from structprune.workflows import compress as pipeline
from structprune.workflows.outputs import proof_inputs
from structprune.workflows.request import Judge, Request


@called_from_python
def compress(
    model: nn.Module,
    example_input: Tensor | Sequence[Tensor],
    nodes: float | None = None,
    *,
    limits: Mapping[str, str | float] | None = None,
    score: str = DEFAULT,
    data: Any = None,
    loss: Loss | str | None = None,
    forward: Forward | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    finetune: Callable[[nn.Module], None] | None = None,
    correct: str | None = None,
    trained: bool | None = None,
    accumulate: Accumulate | None = None,
    labels: Labels | None = None,
    mini_batch: int | None = None,
    align: int | str = 1,
    profile: str | Path | DeviceProfile | None = None,
    floor: float = 0.02,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    cut_padded: bool = False,
    embedding: bool = False,
    steps: int = 1,
    samples: int = DEFAULT_SAMPLES,
    draws: int = DEFAULT_DRAWS,
    chunk: int | None = None,
    seed: int = 0,
    architecture: str | None = None,
    export: bool = True,
    exporter: Exporter = "auto",
    measure: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Compressed:
    """Remove a fraction of a network's nodes, and prove that what is left is what was meant.

    Args:
        model: the network; it is left as it is.
        example_input: one or more positional inputs with a batch dimension, (N, C, H, W) for images.
        nodes: the fraction of output channels and units to remove, in [0, 1).
        limits: what else to ask for, beside ``nodes`` or instead: ``weights``, ``params``, ``flops``,
            ``disk`` and ``memory`` by a fraction to remove (``0.9``, ``"90%"``) or what may be left (``"2M"``
            or ``"5MB"``), ``latency`` (``"2ms"``), ``speedup`` (``4``). The least cut along one ranking that
            keeps them all is taken; time and memory are met within 2 %, in ONNX Runtime on one CPU thread.
        score: a criterion, or a fusion of several joined by ``+``.
        data: what scores: (inputs, targets) tensors or an iterable of such pairs; random inputs if None.
        loss: (output, target) -> mean loss, or ``cross-entropy``, ``mse`` or ``bce``; None: what fits the
            targets, which the report names.
        forward: (network, inputs) -> output that ``loss`` takes; by default the network's own output.
        evaluate: network -> accuracy in [0, 1], on inputs that neither score nor train.
        finetune: trains the network that it is given, in place, after the cut.
        correct: what is done right after the cut, on the inputs of ``data`` without their targets:
            ``least-squares`` refits every layer behind the cut in closed form, ``batch-norm`` takes its
            statistics anew, ``none``; kept where outputs on inputs held out come nearer to the dense ones.
            None: least squares where there are data and the network counts as trained.
        trained: whether the network counts as trained; None: whether its batch norms have seen data, or its
            weights are no longer as initialisers leave them; the report says what decided.
        accumulate: how derivatives of mini-batches are summed: ``total``, ``abs`` or ``square``.
        labels: ``given``, or ``drawn`` from what the network predicts; None: drawn where it is trained, its
            targets are classes, and neither a loss of your own nor ``forward`` is given.
        mini_batch: inputs whose derivatives are summed before ``abs`` and ``square`` are taken.
        align: widths become multiples of it, or stay; ``"auto"`` for those that a device likes.
        profile: that device's, or the file that it is in; None: this machine's, which is probed once.
        floor: the fraction of its width that every group keeps at least.
        skip: patterns over layer names, ``"layer4.*"``: what these layers write stays.
        only: patterns over layer names: nothing else is cut; none for all.
        cut_padded: cut channels along that a shortcut without parameters pads with zeros.
        embedding: cut channels along that a LayerNorm normalises together; the proof says how far the result
            is from closed gates then.
        steps: 1 for one shot, more to rescore in between.
        samples: random inputs to score on, where there are no data.
        draws: weight draws of NTK-SAP, at least.
        chunk: samples per pass; changes memory, never the score.
        seed: of everything random.
        architecture: a name that rebuilds the network, ``"torchvision:resnet18"``, so that
            ``structprune.load(folder)`` needs no module.
        export: whether to write an ONNX file and prove it.
        exporter: ``dynamo``, ``legacy`` (tracing), or ``auto`` for the first that copes. Control flow on
            values of the inputs, which tracing fixes, passes the proof only where ``legacy`` is asked for.
        measure: whether to measure batch time, memory, disk and energy.
        progress: told what happens next.

    Returns:
        The shrunk network with its plan and report.

    Raises:
        TargetUnreachableError: the fraction or a limit can't be met; the message gives the reachable range.
        ProofFailedError: a proof failed.
        InputError: the network or the data can't be used.
        UsageError: an argument makes no sense.

    Example:
        >>> import structprune, torch
        >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(576, 10))
        >>> small = structprune.compress(net, torch.zeros(1, 3, 8, 8), nodes=0.5)
        >>> small.model[0]
        Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        >>> [(proof.name, proof.passed) for proof in small.report.proofs]
        [('closed_gates', True), ('reloaded', True), ('onnx', True), ('signature', True)]
    """
    from exporters.toolbox import Toolbox

    if exporter not in CHOICES["exporter"]:
        raise UsageError(f"exporter {exporter!r} is unknown; known: {', '.join(CHOICES['exporter'])}")
    check_network(model)
    check_callable(forward=forward, evaluate=evaluate, finetune=finetune, progress=progress)
    check_loss_given(loss)
    example = example_tuple(example_input)
    built_by = _architecture(architecture, model)
    model, folding = folded(model)
    known, why = is_trained(model, False, False, trained)
    # Refused before any data are read.
    asked_for(correct, known, data is not None)
    wanted = limits_of(nodes, limits or {})
    scoring = Scoring(score, known, accumulate, "fixed", draws, chunk, steps, seed, mini_batch, labels)
    scored_on = samples_from(model, example, data, loss, forward, samples, scoring)
    unlabelled = None if data is None else lambda: inputs_of(scored_on)
    request = Request(
        model=model,
        example=example,
        limits=wanted,
        floor=floor,
        align=align if isinstance(align, int) else 1,
        samples=scored_on,
        scoring=scoring,
        name=type(model).__name__,
        trained_why=why,
        architecture=built_by,
        judge=Judge(evaluate, 0, "by the caller's own function") if evaluate else None,
        finetune=finetune,
        export=export,
        measure=measure,
        notes=(*folding, *about_loss(scored_on, scoring)),
        scope=Scope(tuple(skip), tuple(only), cut_padded, embedding),
        correction=decided(correct, known, unlabelled, seed, score),
        profile=_profile(align, profile, str(example[0].device), progress),
    )
    tools = Toolbox(exporter=exporter, device=str(example[0].device))
    return _compressed(request, tools, progress)


def _compressed(request: Request, tools: Tools, progress: Callable[[str], None]) -> Compressed:
    """What a request comes to; its files go when it does."""
    files = Path(mkdtemp(prefix="structprune-"))
    try:
        made = pipeline.compress(request, files, tools, progress)
        done = Compressed(made.model, made.plan, made.report, made.scores, request.example, files)
    except BaseException:
        shutil.rmtree(files, ignore_errors=True)
        raise
    weakref.finalize(done, shutil.rmtree, files, ignore_errors=True)
    return done


@called_from_python
def score(
    model: nn.Module,
    example_input: Tensor | Sequence[Tensor],
    criterion: str = DEFAULT,
    *,
    data: Any = None,
    loss: Loss | str | None = None,
    forward: Forward | None = None,
    trained: bool | None = None,
    accumulate: Accumulate | None = None,
    labels: Labels | None = None,
    mini_batch: int | None = None,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    cut_padded: bool = False,
    embedding: bool = False,
    samples: int = DEFAULT_SAMPLES,
    draws: int = DEFAULT_DRAWS,
    chunk: int | None = None,
    seed: int = 0,
) -> Scores:
    """Score every channel that could go; the arguments are those of :func:`compress`.

    Returns:
        group -> (C,) scores, larger = keep; the network is bit for bit as it was.

    Example:
        >>> import structprune, torch
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> structprune.score(net, torch.zeros(1, 4), "snip").values["0"].shape
        torch.Size([3])
    """
    check_network(model)
    check_callable(forward=forward)
    check_loss_given(loss)
    example = example_tuple(example_input)
    model, _ = folded(model)
    known, _ = is_trained(model, False, False, trained)
    scoring = Scoring(criterion, known, accumulate, "fixed", draws, chunk, 1, seed, mini_batch, labels)
    chosen = samples_from(model, example, data, loss, forward, samples, scoring)
    scope = Scope(tuple(skip), tuple(only), cut_padded, embedding)
    groups = cuttable_groups(model, example, proof_inputs(chosen, seed), scope)
    return score_channels(model, groups, chosen, scoring, telling=True)


@called_from_python
def channel_groups(
    model: nn.Module,
    example_input: Tensor | Sequence[Tensor],
    cut_padded: bool = False,
    embedding: bool = False,
    *,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
) -> ChannelGroups:
    """Groups of channels that leave together, those that :func:`compress` would cut.

    Weights that a weight norm or the like computes count as they are once it is folded into them.

    Args:
        model: the network; it is left as it was.
        example_input: one input with its batch dimension, or several in a tuple.
        cut_padded: offer channels that are padded with zeros.
        embedding: offer channels that a LayerNorm normalises together.
        skip: patterns over layer names: what these layers write stays.
        only: patterns over layer names: nothing else is offered; none for all.

    Returns:
        The groups, the protected layers with reasons, and the layers that have nodes.

    Raises:
        UsageError: the network or its input is none, or a pattern matches no layer.
        InputError: the network can't be traced.
    """
    check_network(model)
    example = example_tuple(example_input)
    inputs = inputs_like(example, TRIAL_INPUTS)
    scope = Scope(tuple(skip), tuple(only), cut_padded, embedding)
    return cuttable_groups(folded(model).model, example, inputs, scope)


def _profile(
    align: int | str, profile: str | Path | DeviceProfile | None, device: str, progress: Callable[[str], None]
) -> DeviceProfile | None:
    """Return the profile that chooses widths, or None where a number or nothing does."""
    from exporters.profiling.cache import own_profile

    if align != "auto":
        if not isinstance(align, int) or profile is not None:
            raise UsageError(f"align={align!r}: expected a number, or 'auto', which alone takes a profile")
        return None
    if isinstance(profile, DeviceProfile):
        return profile
    if profile is not None:
        return read_profile(Path(profile))
    return own_profile(this_machine(device), device=device, say=progress)


def _architecture(name: str | None, model: nn.Module) -> Architecture | None:
    """Look up what is to rebuild the network, and make sure that it does.

    Raises:
        InputError: it builds another network.
        UsageError: nothing has that name.
        UnsafeCheckpointError: it names code that is no zoo's.
    """
    if name is None:
        return None
    shapes = shapes_of(model.state_dict())
    architecture = architecture_named(name, num_classes(shapes))
    if other := mismatch(build_on_meta(architecture), shapes):
        raise InputError(f"architecture={name!r} does not build this network: {other.first}")
    return architecture


__all__ = ["Compressed", "channel_groups", "compress", "score"]
