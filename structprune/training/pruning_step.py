"""One cut in a training: of channels, which leave, or of weights, which are masked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups, channel_groups
from structprune.errors import InputError, StructpruneError
from structprune.limits.iterative import choose_next
from structprune.proofs.closed_gates import CLOSED_INPUTS, closed_gates
from structprune.proofs.trial_cut import cuttable_groups
from structprune.pruning.budget import Budget, Plan, select
from structprune.pruning.masks import folded, masked, select_weights, sparsity, unmasked
from structprune.pruning.surgery import regrouped, shrink
from structprune.report.data import Proof
from structprune.scoring.criteria import needed
from structprune.scoring.score import score_weights
from structprune.training.checkpoint import State
from structprune.training.session import Session


@dataclass(frozen=True)
class Cut:
    """What a cut leaves.

    Attributes:
        model: the network afterwards.
        plan: what it keeps of the dense groups; None for masks.
        removed: fraction of the unit that is gone.
        proof: that the network is what the gates say.
    """

    model: nn.Module
    plan: Plan | None
    removed: float
    proof: Proof


@dataclass(frozen=True)
class Cutter:
    """What cuts, with what it has to know.

    Attributes:
        session: the training.
        groups: of the dense network; for methods that cut none, None where it can't be traced.
    """

    session: Session
    groups: ChannelGroups | None

    def check(self) -> None:
        """Refuse a target out of reach, before anything is trained.

        Raises:
            TargetUnreachableError: naming the reachable range.
        """
        if self.session.method.gates == "channels":
            assert self.groups is not None
            flat = {group.name: torch.zeros(group.size) for group in self.groups}
            select(flat, self.groups, self._budget(self.session.remove))

    def rebuilt(self, plan: Plan | None, weights: nn.Module | None = None) -> nn.Module:
        """Return a copy of dense weights, shrunk where there is a plan."""
        dense = self.session.model if weights is None else weights
        if plan is None:
            return copy.deepcopy(dense)
        assert self.groups is not None
        return shrink(dense, self.groups, plan)

    def cut(self, state: State, remove: float) -> Cut:
        """Score the network as it is, and take away what is worst until ``remove`` is gone in all."""
        return CUTS[self.session.method.gates](self, state, remove)

    def _budget(self, remove: float) -> Budget:
        session = self.session
        return Budget(remove, "nodes", session.floor, session.align, session.method.allocation == "global")


def cutter(session: Session) -> Cutter:
    """Find what can be cut of a session's network."""
    if session.method.gates != "channels":
        _check_untied(session)
        try:
            return Cutter(session, channel_groups(session.model, session.example))
        except StructpruneError:
            return Cutter(session, None)
    inputs = session.samples.batches[0].inputs
    return Cutter(session, cuttable_groups(session.model, session.example, inputs))


def _check_untied(session: Session) -> None:
    """A weight that several layers share would be masked in one of them only."""
    names = [name for name, _ in session.model.named_parameters(remove_duplicate=False)]
    own = {name for name, _ in session.model.named_parameters()}
    tied = [name for name in names if name not in own and name.endswith("weight")]
    if tied and session.method.gates == "weights":
        raise InputError(f"{tied[0]} is shared with another layer; shared weights can't be masked")


def _cut_channels(cutter: Cutter, state: State, remove: float) -> Cut:
    session, groups, before = cutter.session, cutter.groups, state.plan
    assert groups is not None
    scoring = session.scoring(trained=state.epochs > 0, cuts=state.cuts)
    samples = replace(session.samples, crew=session.crew)
    plan, _ = choose_next(state.model, groups, before, samples, scoring, cutter._budget(remove))
    present = groups if before is None else regrouped(groups, before)
    step = plan if before is None else _relative(plan, before)
    small = shrink(state.model, present, step)
    proof = closed_gates(state.model, small, present, step, _few(session))
    return Cut(small, plan, plan.reached, proof)


def _relative(plan: Plan, before: Plan) -> Plan:
    """The same plan, as seen by the network that an earlier one left."""
    return replace(plan, keep={name: keep[before.keep[name]] for name, keep in plan.keep.items()})


def _cut_weights(cutter: Cutter, state: State, remove: float) -> Cut:
    session, masks = cutter.session, state.masks
    plain = unmasked(state.model)
    scoring = session.scoring(trained=state.epochs > 0, cuts=state.cuts)
    scores = dict(
        score_weights(plain, replace(session.samples, crew=session.crew), scoring, masks or None).values
    )
    if not any(each.regrows for each in needed(session.method.score)):
        scores = {name: _without_gone(values, masks.get(name)) for name, values in scores.items()}
    keep = select_weights(scores, remove)
    model = masked(plain, {name: mask.to(session.device) for name, mask in keep.items()})
    return Cut(model, None, sparsity(keep), _masked_proof(plain, model, keep))


def _without_gone(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores if mask is None else scores.double().masked_fill(~mask.cpu(), -torch.inf)


def _masked_proof(plain: nn.Module, model: nn.Module, keep: Mapping[str, Tensor]) -> Proof:
    """Prove that a network with its masks folded in has the weights that stay, bit for bit, and no others."""
    before, after = dict(plain.named_parameters()), dict(folded(model).named_parameters())
    apart = [
        float((after[name] - torch.where(keep[name].to(p.device), p, 0.0)).detach().abs().max())
        for name, p in before.items()
        if name in keep
    ]
    same = all(torch.equal(p, after[name]) for name, p in before.items() if name not in keep)
    left = sum(int(torch.count_nonzero(mask)) for mask in keep.values())
    error = max(apart, default=0.0) if same else float("inf")
    how = f"weights of the network with {len(keep)} masks folded in, bit for bit; {left:,} stay"
    return Proof("closed_gates", error == 0.0, error, 0.0, None, None, None, how)


def _few(session: Session) -> tuple[Tensor, ...]:
    """Inputs to compare outputs on: some that score, so that outputs vary."""
    return tuple(x[:CLOSED_INPUTS] for x in session.samples.batches[0].inputs)


CUTS: Mapping[str, Callable[[Cutter, State, float], Cut]] = {
    "channels": _cut_channels,
    "weights": _cut_weights,
}
