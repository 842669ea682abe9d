"""Faults are planted, and each proof must see those that are its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from structprune.channels import ChannelGroup, ChannelGroups, Coupling, channel_groups
from structprune.errors import InputError, ProofFailedError
from structprune.proofs import closed_gates as closing
from structprune.proofs.closed_gates import closed_gates
from structprune.proofs.comparison.gap import Bounds, Gap, gap
from structprune.proofs.verdict import require
from structprune.pruning.budget import Budget, Plan
from structprune.pruning.surgery import shrink
from structprune.report.data import Proof
from tests.cuts import FAULTS, Cut, Deep, like_trained
from tests.networks import TinyMLP, TinyResidualConcat, example
from tests.oracles.state import changed, snapshot


@pytest.fixture
def cut() -> Cut:
    return Cut(like_trained(TinyResidualConcat()), (example(TinyResidualConcat, 8),))


# ---- the figures


def test_the_figures_are_those_of_a_plain_computation() -> None:
    b = [[1.0, -4.0], [3.0, 0.0], [2.0, 2.0]]
    a = [[1.0, -4.0], [3.0, 0.5], [2.0, 2.0]]
    s = (1.0 + (((-10 / 3) ** 2 + (2 / 3) ** 2 + (8 / 3) ** 2) / 2) ** 0.5) / 2
    found = gap(torch.tensor(a), torch.tensor(b))
    assert found.error == pytest.approx(0.5 / 4)
    assert found.error_of_spread == pytest.approx(0.5 / s)
    assert found.spread == pytest.approx(s / 4)


def test_of_several_outputs_the_worst_counts() -> None:
    right = torch.randn(4, 3)
    off = right.clone()
    off[1, 2] += 0.5
    found = gap({"a": off, "b": [right, right]}, {"a": right, "b": [right, right]})
    assert found == gap(off, right)
    assert found.error > 0


def test_a_constant_output_beside_others_is_held_to_its_error() -> None:
    """A temperature, a number for the whole batch, nothing at all: they prove nothing and must agree."""
    right, constant, number, nothing = (
        torch.randn(4, 3),
        torch.ones(4, 2),
        torch.tensor(2.0),
        torch.zeros(4, 0),
    )
    found = gap((right, constant, number, nothing), (right, constant, number, nothing))
    assert found == replace(gap(right, right), constant=2)
    assert found.counts
    assert gap((right, constant * 1.5), (right, constant)).error == 0.5
    assert gap((right, number * 1.5), (right, number)).error == 0.5


def test_a_state_that_has_its_inputs_in_the_second_dimension_varies() -> None:
    state = torch.randn(1, 4, 3)
    assert gap(state, state).counts


def test_complex_outputs_are_compared_in_both_parts() -> None:
    right = torch.randn(4, 3, dtype=torch.complex64)
    assert gap(right.conj(), right).error > 0.1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 2)),
        (torch.zeros(4, 3), (torch.zeros(4, 3),)),
        ({"a": torch.zeros(4, 3)}, {"b": torch.zeros(4, 3)}),
    ],
)
def test_outputs_of_other_shape_or_structure_are_refused(a: object, b: object) -> None:
    with pytest.raises(InputError, match="can't be compared"):
        gap(a, b)


LOOSE = Bounds(1e9, 1e9)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", ["a", "b", "both"])
def test_what_is_not_finite_passes_no_bound(value: float, side: str) -> None:
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    for tensor in {"a": [a], "b": [b], "both": [a, b]}[side]:
        tensor[2, 1] = value
    assert LOOSE.hold(gap(torch.randn(4, 3), torch.randn(4, 3)))
    assert not LOOSE.hold(gap(a, b))


@pytest.mark.parametrize("figure", ["error", "error_of_spread", "spread"])
def test_a_figure_that_is_nan_passes_no_bound(figure: str) -> None:
    fine = Gap(error=0.0, error_of_spread=0.0, spread=0.5)
    assert LOOSE.hold(fine)
    broken: dict[str, Any] = {figure: torch.nan}
    assert not LOOSE.hold(replace(fine, **broken))


def test_a_constant_output_passes_no_bound() -> None:
    constant = torch.full((4, 3), 7.0)
    assert gap(constant, constant) == Gap(0.0, 0.0, 0.0)
    assert not LOOSE.hold(gap(constant, constant))
    nearly = constant + 1e-3 * torch.randn(4, 3)  # varies by less than 1e-3 of its size
    assert not LOOSE.hold(gap(nearly, nearly))


@pytest.mark.parametrize(
    ("error", "of_spread", "holds"), [(0.9, 0.9, True), (1.0, 0.5, False), (0.5, 1.0, False)]
)
def test_every_bound_must_hold_and_an_open_one_holds_nothing(
    error: float, of_spread: float, holds: bool
) -> None:
    found = Gap(error, of_spread, spread=0.5)
    assert Bounds(1.0, 1.0).hold(found) is holds
    assert Bounds(None, None).hold(found)


# ---- closed gates


def test_a_right_cut_is_exact_and_leaves_no_trace(cut: Cut) -> None:
    before = snapshot(cut.dense), snapshot(cut.small)
    proof = cut.proof()
    assert proof.passed
    assert proof.error_of_spread is not None
    assert proof.error_of_spread < 1e-12
    assert (proof.tolerance, proof.tolerance_of_spread) == (1e-9, 1e-9)
    assert "float64" in proof.how
    assert "own batch-norm statistics" in proof.how
    assert changed(before[0], snapshot(cut.dense)) == changed(before[1], snapshot(cut.small)) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_fault_in_the_shrunk_network_fails(
    cut: Cut, fault: Callable[[nn.Module], None], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "_fits", lambda _: precision == "float64")
    assert cut.proof().passed
    fault(cut.small)
    proof = cut.proof()
    assert not proof.passed
    with pytest.raises(ProofFailedError, match="closed_gates failed"):
        require([proof])


def without_one_index(coupling: Coupling) -> Coupling:
    return replace(coupling, channels=coupling.channels[:-1], gates=coupling.gates[:-1])


def group_of(groups: ChannelGroups, layer: str) -> ChannelGroup:
    (found,) = (g for g in groups if layer in {p.layer for p in g.producers})
    return found


def with_group(groups: ChannelGroups, changed_group: ChannelGroup) -> ChannelGroups:
    kept = tuple(changed_group if g.name == changed_group.name else g for g in groups)
    return replace(groups, groups=kept)


def test_a_gate_that_is_dropped_at_one_consumer_fails(cut: Cut) -> None:
    """The stream is read by three layers; one of them loses the gate of a channel that went."""
    stream = group_of(cut.groups, "stem")
    plan = Plan({**cut.plan.keep, stream.name: torch.tensor([True, True, True, False])}, Budget(0.5), 0.5)
    small = shrink(cut.dense, cut.groups, plan)
    assert closed_gates(cut.dense, small, cut.groups, plan, cut.inputs).passed
    for dropped in stream.consumers:
        consumers = tuple(without_one_index(c) if c is dropped else c for c in stream.consumers)
        groups = with_group(cut.groups, replace(stream, consumers=consumers))
        proof = closed_gates(cut.dense, small, groups, plan, cut.inputs)
        assert not proof.passed, dropped.layer
        assert proof.error_of_spread is not None
        assert proof.error_of_spread > 1e-6


def test_a_gate_that_stays_open_fails(cut: Cut) -> None:
    for group in cut.groups:
        keep = cut.plan.keep[group.name].clone()
        keep[1] = True  # it was cut
        plan = Plan({**cut.plan.keep, group.name: keep}, Budget(0.5), 0.5)
        assert not closed_gates(cut.dense, cut.small, cut.groups, plan, cut.inputs).passed, group.name


def test_branches_of_a_residual_sum_that_are_cut_at_different_channels_fail(cut: Cut) -> None:
    stream = group_of(cut.groups, "residual")
    assert {p.layer for p in stream.producers} == {"stem", "residual"}
    turned = [
        replace(p, gates=tuple(reversed(p.gates))) if p.layer == "residual" else p for p in stream.producers
    ]
    wrong = with_group(cut.groups, replace(stream, producers=tuple(turned)))
    cut.small = shrink(cut.dense, wrong, cut.plan)
    assert cut.small(*cut.inputs).shape == cut.dense(*cut.inputs).shape  # nothing but the proof tells
    assert not cut.proof().passed


def test_in_float32_the_bounds_are_its_own(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "_fits", lambda _: False)
    proof = cut.proof()
    assert proof.passed
    assert (proof.tolerance, proof.tolerance_of_spread) == (1e-5, 1e-2)
    assert "float32" in proof.how
    assert proof.error < 1e-5


@pytest.fixture
def collapsed() -> Cut:
    return Cut(Deep(), (torch.randn(8, 3, 8, 8),))


class Sampled(nn.Module):
    """Samples its channels at places that it counts in whole numbers, as networks for optical flow do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x).relu()
        steps = torch.arange(maps.shape[-1]).float() / maps.shape[-1]
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).expand(len(x), -1, -1, -1)
        out: Tensor = self.head(nn.functional.grid_sample(maps, grid, align_corners=False).mean((2, 3)))
        return out


def test_counted_coordinates_are_compared_in_float64_too() -> None:
    cut = Cut(Sampled().eval(), (torch.randn(8, 3, 8, 8),))
    proof = closed_gates(cut.dense, cut.small, cut.groups, cut.plan, cut.inputs)
    assert proof.passed, proof.how
    assert "float64" in proof.how
    assert proof.error < 1e-12
    assert "times 0.1" in proof.how


def test_where_outputs_collapse_the_statistics_are_those_of_the_inputs(collapsed: Cut) -> None:
    with torch.no_grad():
        outputs = collapsed.dense(*collapsed.inputs)
    assert outputs.std(0).mean() < 1e-3 * outputs.abs().max()
    proof = collapsed.proof()
    assert proof.passed
    assert "batch-norm statistics of the inputs" in proof.how
    assert proof.spread is not None
    assert proof.spread > 1e-3


def test_a_fault_fails_where_outputs_collapse_too(collapsed: Cut) -> None:
    with torch.no_grad():
        weight = collapsed.small.get_parameter("layers.2.weight")
        weight[[0, 1]] = weight[[1, 0]]
    proof = collapsed.proof()
    assert not proof.passed
    assert "batch-norm statistics of the inputs" in proof.how


def test_a_head_of_zeros_is_proven_with_redrawn_weights() -> None:
    """As torchvision's ViT begins: its outputs say nothing, those of the same cut on other weights do."""
    model = TinyMLP()
    nn.init.zeros_(model.head.weight)
    proof = Cut(model, (example(TinyMLP, 8),)).proof()
    assert proof.passed
    assert "weights redrawn" in proof.how


class Constant(TinyMLP):
    def forward(self, x_N5: Tensor) -> Tensor:
        return super().forward(x_N5) * 0 + 1


def test_a_network_with_a_constant_output_proves_nothing() -> None:
    proof = Cut(Constant(), (example(TinyMLP, 8),)).proof()
    assert (proof.error, proof.passed) == (0.0, False)
    with pytest.raises(ProofFailedError, match="too little to compare"):
        require([proof])


# ---- the verdict


PASSED = Proof("signature", True, 0.0, 0.0, None, None, None, "at two sizes")
FAILED = Proof("onnx", False, 0.5, 1e-4, 0.25, 1e-2, 0.2, "batches of 1")


def test_proofs_that_passed_raise_nothing() -> None:
    require([])
    require([PASSED])


def test_a_failure_is_raised_with_every_figure() -> None:
    with pytest.raises(ProofFailedError) as caught:
        require([PASSED, FAILED, replace(FAILED, name="reloaded", error_of_spread=None)])
    message = str(caught.value)
    for part in ("onnx", "reloaded", "5.0e-01", "0.0001", "2.5e-01", "0.01", "batches of 1"):
        assert part in message
    assert "signature" not in message
    assert caught.value.exit_code == 4


class Silent(TinyMLP):
    """A second output that is constant until the weights are others."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(4, 2)
        nn.init.zeros_(self.other.weight)

    def forward(self, x_N5: Tensor) -> Any:
        hidden_N4 = torch.relu(self.fc2(torch.relu(self.fc1(x_N5))))
        return self.head(hidden_N4), self.other(hidden_N4)


def test_an_output_that_collapsed_beside_others_is_compared_where_it_varies() -> None:
    proof = Cut(Silent(), (example(TinyMLP, 8),)).proof()
    assert proof.passed
    assert "weights redrawn" in proof.how


def test_a_cut_that_kills_the_network_is_called_so() -> None:
    """Frozen norms shift what is left below every rectifier: only the dense network varies."""
    torch.manual_seed(0)
    first, norm, second = nn.Conv2d(3, 8, 1), FrozenBatchNorm2d(8), nn.Conv2d(8, 6, 1)
    norm.bias[4:] = -100.0
    model = nn.Sequential(first, norm, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5))
    inputs = (torch.randn(4, 3, 4, 4),)
    groups = channel_groups(model, inputs)
    keep = {group.name: torch.ones(group.size, dtype=torch.bool) for group in groups}
    keep["0"][:4] = False
    plan = Plan(keep, Budget(0.0), 0.0)
    proof = closed_gates(model, shrink(model, groups, plan), groups, plan, inputs)
    assert (proof.passed, proof.dead) == (False, True)
    with pytest.raises(ProofFailedError, match="dead"):
        require([proof])
