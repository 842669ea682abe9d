"""Labels, and what operations do to them: held against cutting by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from structprune.channels import ChannelGroups, channel_groups, trace
from structprune.channels.labels import FIXED, Labels, Tag, along, collapsed, merged, support
from structprune.channels.rules.reshaping import blocks
from structprune.channels.scope import picked
from structprune.errors import InputError, UsageError


def test_what_is_tied_over_any_number_of_steps_is_one_class() -> None:
    labels = Labels()
    a, b, c = labels.new(3), labels.new(3), labels.new(3)
    labels.tie(a, b, "")
    labels.tie(b, c.flip(0), "")
    of = labels.classes().of
    assert (of[a] == of[b]).all()
    assert (of[a] == of[c.flip(0)]).all()
    assert len(set(of.tolist())) == 3


def test_beside_what_is_fixed_nothing_can_leave() -> None:
    labels = Labels()
    a = labels.new(3)
    labels.tie(a, torch.tensor([FIXED, FIXED, int(a[2])]), "zeros")
    classes = labels.classes()
    assert classes.reasons == {int(classes.of[0]): "zeros", int(classes.of[1]): "zeros"}


def test_the_first_reason_counts_for_all_that_is_tied() -> None:
    labels = Labels()
    a, b = labels.new(2), labels.new(2)
    labels.pin(a[:1], "first")
    labels.pin(b, "second")
    labels.tie(a, b, "")
    classes = labels.classes()
    assert [classes.reasons[int(classes.of[i])] for i in range(2)] == ["first", "second"]


def test_operands_that_meet_entry_by_entry_are_tied_along_common_dimensions() -> None:
    labels = Labels()
    a, b = labels.new(4), labels.new(4)
    maps, scale = Tag((along(4, 1, a),)), Tag((along(4, 1, b),))
    made = merged(labels, (2, 4, 6, 6), [(maps, (2, 4, 6, 6)), (scale, (2, 4, 1, 1))], "")
    assert [support(f) for f in made.factors] == [{1}]
    of = labels.classes().of
    assert (of[a] == of[b]).all()


@pytest.mark.parametrize(("shape", "held"), [((2, 4, 6, 6), True), ((4, 1, 1), True), ((1, 1, 6, 6), False)])
def test_values_without_labels_hold_what_they_meet_in_full(shape: tuple[int, ...], held: bool) -> None:
    labels = Labels()
    a = labels.new(4)
    merged(labels, (2, 4, 6, 6), [(Tag((along(4, 1, a),)), (2, 4, 6, 6)), (Tag(), shape)], "why")
    assert (set(labels.classes().reasons.values()) == {"why"}) is held


def test_labels_of_heads_tie_what_differs_within_a_head() -> None:
    """A factor that differs by head and one that differs by head and width."""
    labels = Labels()
    heads, both = labels.new(3), labels.new(12)
    tags = [(Tag((along(2, 0, heads),)), (3, 4)), (Tag((both.reshape(3, 4),)), (3, 4))]
    (made,) = merged(labels, (3, 4), tags, "").factors
    assert support(made) == {0}
    of = labels.classes().of
    assert (of[both].reshape(3, 4) == of[heads][:, None]).all()


def test_dimensions_without_difference_are_narrowed() -> None:
    assert collapsed(torch.arange(3)[:, None].expand(3, 5)).shape == (3, 1)
    assert collapsed(torch.zeros(2, 3, dtype=torch.int64)).shape == (1, 1)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((2, 8, 6), (2, 2, 4, 6), [([0], [0]), ([1], [1, 2]), ([2], [3])]),
        ((2, 8, 3, 3), (2, 72), [([0], [0]), ([1, 2, 3], [1])]),
        ((4, 6), (8, 3), [([0, 1], [0, 1])]),
        ((2, 3), (2, 3, 1), [([0], [0]), ([1], [1]), ([], [2])]),
    ],
)
def test_dimensions_of_a_reshape_are_paired(
    before: tuple[int, ...], after: tuple[int, ...], expected: list[tuple[list[int], list[int]]]
) -> None:
    assert blocks(before, after) == expected


class Between(nn.Module):
    """Two convolutions with something in between."""

    def __init__(self, run: Callable[[Tensor], Tensor], inputs: int = 8) -> None:
        super().__init__()
        self.run = run
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(inputs, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.b(self.run(self.a(x))).mean((2, 3)))
        return out


def read_by_b(run: Callable[[Tensor], Tensor], inputs: int = 8) -> dict[int, int] | None:
    """Which output of a each input of b comes from; None where a is protected."""
    groups = channel_groups(Between(run, inputs), torch.randn(2, 3, 6, 6))
    group = next((g for g in groups if g.name.startswith("a")), None)
    if group is None:
        return None
    (b,) = (c for c in group.consumers if c.layer == "b")
    first = {gate: channel for channel, gate in zip(*_producer(group), strict=True)}
    return {i: first[gate] for i, gate in zip(b.channels, b.gates, strict=True)}


def _producer(group: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    (a,) = (c for c in group.producers if c.layer == "a")  # type: ignore[attr-defined]
    return tuple(reversed(a.channels)), tuple(reversed(a.gates))


SHUFFLED = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])


@pytest.mark.parametrize(
    ("run", "inputs", "expected"),
    [
        (lambda y: y.flip(1), 8, dict(enumerate(range(7, -1, -1)))),
        (lambda y: y.roll(3, 1), 8, None),
        (lambda y: y.roll(1, 2)[:, :, [0, 2, 1, 3]], 8, {i: i for i in range(8)}),
        (lambda y: y[:, SHUFFLED], 8, None),
        (lambda y: y.index_select(1, SHUFFLED), 8, None),
        (lambda y: y.repeat(1, 2, 1, 1), 16, {i: i % 8 for i in range(16)}),
        (lambda y: y.repeat_interleave(2, 1), 16, {i: i // 2 for i in range(16)}),
        (lambda y: torch.stack([y, -y], 2).flatten(1, 2), 16, {i: i // 2 for i in range(16)}),
        (lambda y: F.glu(torch.cat([y, y], 1), 1), 8, {i: i for i in range(8)}),
        (lambda y: y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), 8, {i: i for i in range(8)}),
        (lambda y: y.transpose(1, 3).clone().transpose(1, 3), 8, {i: i for i in range(8)}),
        (lambda y: y.unsqueeze(2).squeeze(2), 8, {i: i for i in range(8)}),
        (lambda y: F.unfold(y, 2, stride=2).reshape(len(y), 8, 4, -1).mean(2).unsqueeze(-1), 8, None),
        (lambda y: torch.einsum("nchw->nc", y)[:, :, None, None], 8, {i: i for i in range(8)}),
        (lambda y: torch.where(y > 0, y, y * 0.1), 8, {i: i for i in range(8)}),
        (lambda y: y.sort(1).values, 8, None),
        (lambda y: torch.fft.fft(y, dim=1).real, 8, None),
        (lambda y: y @ y, 8, {i: i for i in range(8)}),
    ],
    ids=[
        "flip", "roll", "in space", "index", "index_select", "repeat", "repeat_interleave", "stacked", "glu",
        "channels last",
        "transposed", "squeezed", "unfold", "einsum", "where", "sort", "fft", "product over space",
    ],
)  # fmt: skip
def test_labels_go_where_channels_go(
    run: Callable[[Tensor], Tensor], inputs: int, expected: dict[int, int] | None
) -> None:
    assert read_by_b(run, inputs) == expected


def test_values_written_into_another_tensor_hold_their_channels() -> None:
    def run(y: Tensor) -> Tensor:
        out = torch.zeros_like(y[:, :1]).repeat(1, 8, 1, 1)
        out[:, 2:6] = y[:, 2:6]
        return out

    assert read_by_b(run) is None


def test_a_pass_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(y: Tensor) -> Tensor:
        while True:
            y = y + 1

    monkeypatch.setattr(trace, "SECONDS", 0.3)
    with pytest.raises(InputError, match=r"not done after 0.3 s and [0-9,]+ operations"):
        channel_groups(Between(forever), torch.randn(2, 3, 6, 6))


def test_a_tensor_too_large_to_follow_holds_its_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    from structprune.channels.rules import call as calls

    monkeypatch.setattr(calls, "LARGEST", 16)
    assert read_by_b(lambda y: y.flip(1)) is None


class Opaque(torch.autograd.Function):
    """Operations of the user's own behind a custom derivative."""

    @staticmethod
    def forward(ctx: object, y: Tensor) -> Tensor:
        return y.cumsum(1)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0].flip(1).cumsum(1).flip(1)


def branching(y: Tensor) -> Tensor:
    """Control flow that depends on the data."""
    return y * 2 if float(y.sum()) > 0 else -y


def custom(y: Tensor) -> Tensor:
    """An operation of another library, registered with torch."""
    out: Tensor = torch.ops.structprune_tests.mixed(y)
    return out


@pytest.fixture
def unknown_operator() -> None:
    if not hasattr(torch.ops.structprune_tests, "mixed"):
        torch.library.define("structprune_tests::mixed", "(Tensor y) -> Tensor")
        torch.library.impl("structprune_tests::mixed", "CPU", lambda y: y - y.mean(1, keepdim=True))


@pytest.mark.parametrize(
    "run", [lambda y: Opaque.apply(y), branching, custom], ids=["own", "branch", "operator"]
)
def test_what_nobody_planned_for_is_protected(
    run: Callable[[Tensor], Tensor], unknown_operator: None
) -> None:
    groups = channel_groups(Between(run), torch.randn(2, 3, 6, 6))
    assert "a" not in {g.name for g in groups}
    (reason,) = (row.reason for row in groups.protected if row.layer == "a")
    assert len(reason.split()) > 3
    assert "b" in {g.name for g in groups}  # what lies beside it is cut


def two_layers() -> ChannelGroups:
    return channel_groups(Between(torch.relu), torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize(
    ("skip", "only", "left"),
    [
        ((), (), {"a", "b"}),
        (("a",), (), {"b"}),
        ((), ("b*",), {"b"}),
        (("*",), (), set()),
        (("b",), ("a",), {"a"}),
    ],
)
def test_layers_are_left_out_by_name(skip: tuple[str, ...], only: tuple[str, ...], left: set[str]) -> None:
    groups = picked(two_layers(), skip, only)
    assert {g.name for g in groups} == left
    assert {row.layer for row in groups.protected} == {"a", "b", "head"} - left
    assert groups.nodes == 14


@pytest.mark.parametrize("option", ["skip", "only"])
def test_a_pattern_that_matches_nothing_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match=rf"{option}=c\* matches no layer; there are a, b"):
        picked(two_layers(), **{option: ["c*"]})
