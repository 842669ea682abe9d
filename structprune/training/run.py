"""The steps of a schedule, carried out one by one; a checkpoint after every epoch."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from structprune.channels import ChannelGroups
from structprune.nn.layers import BatchNorm
from structprune.proofs.verdict import require
from structprune.pruning.budget import Plan
from structprune.pruning.masks import folded, masked
from structprune.report.data import Proof
from structprune.report.training import Detection, Epoch, Event
from structprune.training import checkpoint as files
from structprune.training import schedules
from structprune.training.checkpoint import State
from structprune.training.epoch import EpochPlan, steps_of, train_epoch
from structprune.training.evaluation import evaluate
from structprune.training.methods import Method
from structprune.training.optimiser import optimiser
from structprune.training.pruning_step import Cutter, cutter
from structprune.training.resuming import load_optimiser, resumed
from structprune.training.sealed_file import check_replaceable
from structprune.training.session import Session, check

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        model: the network, plain; masked weights are zeros in it.
        plan: what it keeps of the dense groups; None for methods on weights.
        removed: fraction of the method's unit that is gone.
        proof: the worst of the cuts', or None without any.
        log: one entry an epoch.
        events: cuts and what else happened.
        best: (validation accuracy, epoch), or None.
        detection: how the moment of an early cut was found, or None.
        seconds: wall time.
        masks: parameter name -> what stays; empty for methods on channels.
        groups: of the dense network, or None where it can't be traced.
    """

    model: nn.Module
    plan: Plan | None
    removed: float
    proof: Proof | None
    log: tuple[Epoch, ...]
    events: tuple[Event, ...]
    best: tuple[float, int] | None
    detection: Detection | None
    seconds: float
    masks: Mapping[str, torch.Tensor]
    groups: ChannelGroups | None


@dataclass(frozen=True)
class _Run:
    """A session with all that carries it out."""

    session: Session
    fingerprint: Mapping[str, Any]
    cutter: Cutter
    say: Say
    started: float


def train(session: Session, resume: bool = False, say: Say = lambda _: None) -> Trained:
    """Train a network with a method of pruning.

    Args:
        session: what and how.
        resume: go on from the session's checkpoint, if there is one; on a CPU the result is bit for bit
            that of a training that was never interrupted.
        say: told what happens next.

    Raises:
        UsageError: the session makes no sense, or the checkpoint is of another training.
        OutputError: the checkpoint's place is taken by a file that is none of ours.
        TargetUnreachableError: the target can't be met.
        ProofFailedError: a cut is not what was meant, now or in the checkpoint.
        InputError: the checkpoint can't be read or is damaged, or the loss is not finite.
    """
    check(session)
    # First, since a network may remember that it was run.
    fingerprint = {} if session.checkpoint is None else session.fingerprint()
    chosen = cutter(session)
    chosen.check()
    run = _Run(session, fingerprint, chosen, say, time.perf_counter())
    state = _begun(run, resume)
    _carry_out(run, state)
    state.seconds += time.perf_counter() - run.started
    return _trained(run, state)


def _begun(run: _Run, resume: bool) -> State:
    session = run.session
    state = resumed(session, run.cutter, run.fingerprint) if resume else None
    if session.checkpoint is not None and not session.crew.rank:
        check_replaceable(session.checkpoint)
    if state is None:
        return State(session.laid_out(copy.deepcopy(session.model).to(session.device)))
    run.say(f"going on after epoch {state.epochs}")
    return state


def _carry_out(run: _Run, state: State) -> None:
    """Walk through the program; steps that are done are answered from memory."""
    program = run.session.program()
    step = next(program)
    for number in itertools.count():
        if number == len(state.answers):
            answer = STEPS[type(step)](run, state, step)
            state.answers.append(answer)
            state.within = 0
        try:
            step = program.send(state.answers[number])
        except StopIteration:
            return


def _train(run: _Run, state: State, step: schedules.Train) -> bool | None:
    """Train; after a watched epoch tell whether the detector fires."""
    session = run.session
    detector = session.detector() if step.watch else None
    if detector is not None and state.watched is None:
        state.watched = detector.start(state.model)
    constant = step.rate == "constant"
    chosen = optimiser(state.model, session.recipe, _names(state.model, step.only))
    if state.optimiser is not None and (constant or state.within):
        load_optimiser(chosen, state.optimiser, session.checkpoint)
    while state.within < step.epochs:
        _epoch(run, state, step, chosen)
        if detector is not None and state.watched is not None:
            state.watched, seen = detector.observe(state.watched, state.model)
            state.series.append(seen)
        state.optimiser = chosen.state_dict()
        _save(run, state)
    return detector.fires(state.series) if detector is not None else None


def _epoch(run: _Run, state: State, step: schedules.Train, chosen: Optimizer) -> None:
    session, start = run.session, time.perf_counter()
    each = steps_of(session.train, session.crew.size)
    plan = EpochPlan(
        number=state.epochs,
        first=state.within * each,
        steps=step.epochs * each,
        recipe=session.recipe,
        seed=session.seed,
        constant=step.rate == "constant",
        l1=step.l1,
        precision=session.precision,
        share=(session.crew.rank, session.crew.size),
    )
    # Wrapped anew for every epoch: a cut in between leaves other parameters.
    wrapped = session.crew.wrapped(state.model)
    loss = session.crew.mean(train_epoch(wrapped, chosen, session.train, plan))
    session.crew.agree(state.model)
    found = evaluate(state.model, session.validation) if session.validation is not None else None
    rate = float(chosen.param_groups[0]["lr"])
    state.within += 1
    epoch = Epoch(state.epochs + 1, loss, found, rate, round(time.perf_counter() - start, 3))
    state.log.append(epoch)
    if found is not None and (state.best is None or found > state.best[0]):
        state.best = (found, epoch.number)
    total = max(session.longest()[0], epoch.number)
    left = (total - epoch.number) * epoch.seconds
    shown = "" if found is None else f", validation {100 * found:.1f} %"
    run.say(f"epoch {epoch.number} of {total}, loss {loss:.3f}{shown}, {_clock(left)} left")


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _names(model: nn.Module, only: str) -> Callable[[str], bool]:
    """Tell from its name whether a parameter is trained: in GateDecorators' tick no convolution is."""
    if only == "all":
        return lambda _: True
    gates = {
        f"{name}.{key}"
        for name, layer in model.named_modules()
        if isinstance(layer, (BatchNorm, nn.Linear))
        for key, _ in layer.named_parameters(recurse=False)
    }
    return gates.__contains__


def _cut(run: _Run, state: State, step: schedules.Cut) -> None:
    run.say(f"scoring for {100 * step.remove:.1f} %")
    # Whatever trains, scores are taken in float32, in evaluation mode.
    cut = run.cutter.cut(state, step.remove)
    require([cut.proof])
    state.model, state.plan = run.session.laid_out(cut.model.to(run.session.device)).eval(), cut.plan
    state.optimiser = None  # its moments are those of weights that are gone
    state.cuts += 1
    state.proofs.append(cut.proof)
    state.events.append(Event(state.epochs, "cut", cut.removed))


def _remember(run: _Run, state: State, step: schedules.Remember) -> None:
    state.point = {name: x.detach().clone() for name, x in state.model.state_dict().items()}
    state.events.append(Event(state.epochs, "remembered", 0.0))


def _rewind(run: _Run, state: State, step: schedules.Rewind) -> None:
    """Put everything that survives back to the point, batch norms and biases too, with a new optimiser."""
    assert state.point is not None, "a schedule remembers before it rewinds"
    dense = copy.deepcopy(run.session.model)
    dense.load_state_dict(state.point)
    model = masked(run.cutter.rebuilt(state.plan, dense), state.masks)
    state.model = run.session.laid_out(model.to(run.session.device))
    state.optimiser = None
    state.events.append(Event(state.epochs, "rewound", state.events[-1].removed))


STEPS: Mapping[type, Callable[[_Run, State, Any], bool | None]] = {
    schedules.Train: _train,
    schedules.Cut: _cut,
    schedules.Remember: _remember,
    schedules.Rewind: _rewind,
}


def _save(run: _Run, state: State) -> None:
    if run.session.checkpoint is None or run.session.crew.rank:
        return
    elapsed = time.perf_counter() - run.started
    state.seconds += elapsed
    files.save(state, run.fingerprint, run.session.checkpoint)
    state.seconds -= elapsed


def _trained(run: _Run, state: State) -> Trained:
    masks = {name: keep.cpu() for name, keep in state.masks.items()}
    worst = max(state.proofs, key=lambda p: (not p.passed, p.error_of_spread or p.error), default=None)
    return Trained(
        model=folded(state.model).to(memory_format=torch.contiguous_format).eval(),
        plan=state.plan,
        removed=next((e.removed for e in reversed(state.events) if e.what == "cut"), 0.0),
        proof=worst,
        log=tuple(state.log),
        events=tuple(state.events),
        best=state.best,
        detection=_detection(run.session, run.session.method, state),
        seconds=round(state.seconds, 3),
        masks=masks,
        groups=run.cutter.groups,
    )


def _detection(session: Session, method: Method, state: State) -> Detection | None:
    detector = session.detector()
    if detector is None:
        return None
    watched = len(state.series)
    fired = bool(state.answers[:watched] and state.answers[watched - 1])
    latest = session.longest()[1]
    return Detection(
        method.detector or "", detector.words, tuple(state.series), watched if fired else None, latest
    )
