"""Networks of the fuzz's grammar: what passes every proof is what was meant, in everything that is tried."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor

from benchmarks.fuzz import BOUND, cut, examine
from benchmarks.fuzz_networks import Draw, Head, Network, network
from benchmarks.fuzz_oracle import differences, zeroed
from benchmarks.fuzz_traps import (
    CONDITIONS,
    FEATURES,
    OF_FEATURES,
    TRAPS,
    Always,
    Arm,
    Asleep,
    Cache,
    Counter,
    Stage,
    Tail,
    pointwise,
)
from structprune.channels import channel_groups
from tests.cuts import every_second
from tests.networks import TinyResidualConcat
from tests.oracles.forward import tiny_residual_concat

# Small ones of the benchmark's, 28 of which were wrong in silence once.
NUMBERS = (
    1, 12, 15, 18, 20, 24, 29, 37, 40, 42, 47, 48, 64, 70, 71, 74, 79, 83, 86, 87, 98, 99, 129, 135, 136, 146,
    155, 161, 172, 189, 202, 205, 215, 241, 264, 298, 303, 306, 319, 331, 332, 348, 349, 350, 351, 357, 366,
    388, 404, 410, 416, 420, 426, 433, 434, 457, 458, 478, 483, 487,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _traced_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRUCTPRUNE_ISOLATED", "0")  # a process for every trace takes longer than the trace


def test_what_is_proven_is_the_dense_network_with_removed_channels_zeroed() -> None:
    findings = examine(NUMBERS)
    assert {f.number: f.differences for f in findings if f.differences} == {}
    assert [f.number for f in findings if f.outcome == "crashed"] == []
    assert sum(f.outcome in ("cut", "protected") for f in findings) >= len(findings) / 2


def test_a_network_is_that_of_its_number() -> None:
    first, again, other = network(7), network(7), network(8)
    assert first.words == again.words != other.words
    own, same = first.state_dict(), again.state_dict()
    assert all(torch.equal(own[name], same[name]) for name in own)


def test_about_half_of_the_networks_have_traps_of_every_kind() -> None:
    networks = [network(number) for number in range(150)]
    kinds = [{type(m) for m in net.modules()} & {kind for kind, _ in TRAPS} for net in networks]
    assert 50 <= sum(bool(row) for row in kinds) <= 100
    assert set().union(*kinds) == {kind for kind, _ in TRAPS}


def test_the_oracle_zeroes_what_the_formulas_do() -> None:
    model = TinyResidualConcat().double().eval()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    groups = channel_groups(model.float(), x.float())
    keep = every_second(groups).keep
    dense = zeroed(model.double(), groups, keep)
    gates = {name: stays.double() for name, stays in keep.items()}

    def as_it_is(name: str, h: Tensor, _: object) -> Tensor:
        out: Tensor = model.get_submodule(name)(h)
        return out

    expected = tiny_residual_concat(dict(model.named_parameters()), gates, x, as_it_is)
    torch.testing.assert_close(dense(x), expected)


class Mix(Stage):
    """A layer that mixes channels, and a ReLU."""

    def __init__(self, kind: str, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = pointwise(kind, inputs, outputs)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        return torch.relu(self.layer(h))


def _wrong_unproven(trap: type[Stage], **attributes: object) -> set[str]:
    """Settings in which a network with a trap is another one when it is cut without a proof."""

    def build() -> Network:
        torch.manual_seed(0)
        stage = trap(Random(0), "image", 8)
        for key, value in attributes.items():
            setattr(stage, key, value)
        layers = [Mix("image", FEATURES["image"], 8), stage, Mix("image", 8, 8)]
        return Network("image", [*layers, Head(Draw(Random(0), "image", 8))]).eval()

    model = build()
    done = cut(model, model.input_shape, 1, proving=False)
    dense = zeroed(build(), done.groups, done.plan.keep)
    found = differences(build(), dense, done.small, 0)
    return {name for name, distance in found.items() if distance is not None and distance > BOUND}


@pytest.mark.parametrize("when", sorted({*CONDITIONS} - {*OF_FEATURES}))  # those are protected by the trace
def test_every_arm_is_taken_somewhere_and_seen_there(when: str) -> None:
    assert _wrong_unproven(Arm, when=when, then="width")


@pytest.mark.parametrize(
    ("trap", "attributes", "setting"),
    [
        (Always, {"then": "width"}, "as it is"),
        (Tail, {"then": "width", "threshold": 12, "form": "plus"}, "scale 40"),
        (Tail, {"then": "root", "threshold": 20, "form": "where"}, "scale 40"),
        (Cache, {"by": "shape"}, "size 12"),
        (Counter, {"by": "calls", "then": "width"}, "three calls"),
        (Counter, {"by": "samples", "then": "width"}, "batch 20"),
        (Asleep, {"by": "rezero", "then": "len"}, "awake"),
    ],
)
def test_every_trap_is_seen_where_it_wakes(
    trap: type[Stage], attributes: dict[str, object], setting: str
) -> None:
    assert setting in _wrong_unproven(trap, **attributes)


def test_a_network_without_traps_is_cut_right_unproven() -> None:
    assert _wrong_unproven(Arm, when="bright", then="double") == set()
