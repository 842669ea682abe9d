"""Networks that take another way than the example does: what a cut would change there is protected."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from structprune import compress
from structprune.channels import ChannelGroups, channel_groups
from structprune.errors import InputError
from structprune.proofs.closed_gates import closed_gates
from structprune.proofs.comparison.calls import Setting
from structprune.proofs.comparison.control_flow import branches
from structprune.proofs.comparison.influence import exposed
from structprune.proofs.comparison.settings import Settings, settings_of
from structprune.proofs.trial import SHALLOW, TrialCut, plan_of
from structprune.proofs.trial_cut import verified_groups
from structprune.pruning.surgery import shrink
from structprune.report.data import Proof


class Plain(nn.Module):
    """Two convs and a classifier, (N, 3, 16, 16) -> (N, 10); a trap changes what lies between the convs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def between(self, h: Tensor, x: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        h = self.between(functional.relu(self.first(x)), x)
        return self.head(functional.relu(self.second(h)).mean((-2, -1)))  # type: ignore[no-any-return]


def centred(h: Tensor) -> Tensor:
    """A mixture of all channels: no channel of it can leave."""
    return h - h.mean(-3, keepdim=True)


def trap(between: Callable[[Any, Tensor, Tensor], Tensor]) -> type[Plain]:
    return type("Trapped", (Plain,), {"between": between})


def remembered(s: Any, h: Tensor, _: Tensor) -> Tensor:
    cache = s.__dict__.setdefault("cache", {})
    return h * cache.setdefault(h.shape[0], h.shape[1] ** -0.5)  # type: ignore[no-any-return]


def counted(s: Any, h: Tensor, _: Tensor) -> Tensor:
    s.calls = getattr(s, "calls", 0) + 1
    return centred(h) if s.calls > 5 else h


def counted_in_a_buffer(s: Any, h: Tensor, _: Tensor) -> Tensor:
    if not hasattr(s, "seen"):
        s.register_buffer("seen", torch.zeros((), dtype=torch.int64))
    s.seen += 1
    return centred(h) if s.seen > 5 else h


def dropped(s: Any, h: Tensor, _: Tensor) -> Tensor:
    h = functional.dropout(h, 0.5, s.training)
    return centred(h) if s.training else h


class DropPath(nn.Module):
    """As timm and torchvision draw it."""

    def forward(self, h: Tensor) -> Tensor:
        return h * h.new_empty(len(h), 1, 1, 1).bernoulli_(0.5).div_(0.5) if self.training else h


TRAPS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "large images": lambda s, h, x: centred(h) if x.shape[-1] > 16 else h,
    "small images": lambda s, h, x: centred(h) if x.shape[-1] < 13 else h,
    "a size far from the example's": lambda s, h, x: centred(h) if x.shape[-1] * x.shape[-2] > 30**2 else h,
    "oblong images": lambda s, h, x: centred(h) if x.shape[-1] > x.shape[-2] else h,
    "upright images": lambda s, h, x: centred(h) if x.shape[-1] < x.shape[-2] else h,
    "large batches": lambda s, h, x: centred(h) if len(x) > 16 else h,
    "larger batches than any that is tried by itself": lambda s, h, x: centred(h) if x.size(0) >= 50 else h,
    "one input": lambda s, h, x: centred(h) if x.shape[0] == 1 else h,
    "training": lambda s, h, x: centred(h) if s.training else h,
    "training beside dropout": dropped,
    "bright": lambda s, h, x: centred(h) if x.abs().max() > 8 else h,
    "dark": lambda s, h, x: centred(h) if x.abs().max() < 0.3 else h,
    "negative": lambda s, h, x: centred(h) if x.max() <= 0 else h,
    "gradients": lambda s, h, x: centred(h) if torch.is_grad_enabled() else h,
    "what requires gradients": lambda s, h, x: centred(h) if h.requires_grad else h,
    "single precision": lambda s, h, x: centred(h) if h.dtype == torch.float32 else h,
    "a tail": lambda s, h, x: h + functional.relu(h - 20) * (h.shape[1] / 16),
    "a cache": remembered,
    "a counter": counted,
    "a counter that is saved": counted_in_a_buffer,
    "odd sizes": lambda s, h, x: centred(h) if x.shape[-1] % 2 else h,
}
"""What the example does not show, by what does."""


def images(size: int = 16) -> Tensor:
    return torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(1))


def left_of(model: nn.Module, x: Tensor | None = None) -> ChannelGroups:
    inputs = images() if x is None else x
    return verified_groups(model, channel_groups(model, inputs[:1]), (inputs[:3],))


def proof_of(model: nn.Module) -> Proof:
    """The proof of a cut of its first group, which no trial has seen."""
    inputs = (images()[:4],)
    flow = branches(copy.deepcopy(model), (images()[:2],))
    groups = replace(channel_groups(model, inputs), control_flow=flow)
    plan = plan_of(groups, TrialCut(groups.groups[:1], SHALLOW))
    return closed_gates(model, shrink(model, groups, plan), groups, plan, inputs)


def test_a_network_without_traps_loses_nothing() -> None:
    groups = left_of(Plain())
    assert [group.name for group in groups] == ["first", "second"]
    assert groups.control_flow == ()


@pytest.mark.parametrize("name", TRAPS)
def test_what_another_way_through_the_network_mixes_is_protected(name: str) -> None:
    groups = left_of(trap(TRAPS[name])())
    assert [group.name for group in groups] == ["second"]
    (reason,) = (row.reason for row in groups.protected if row.layer == "first")
    # Of one input, and in single precision, the trace sees it already.
    assert "trial cut" in reason or name in ("one input", "single precision")


UNSEEN = ("a cache", "a counter", "a counter that is saved", "single precision")
"""What the proof is not asked about: it shows only once a network was called, or in the trace."""


@pytest.mark.parametrize("name", [n for n in TRAPS if n not in UNSEEN])
def test_the_proof_sees_it_too(name: str) -> None:
    """Handed a group that no trial protected, the proof fails, and says under which setting."""
    proof = proof_of(trap(TRAPS[name])())
    assert not proof.passed
    assert "differ" in proof.how


def test_a_value_that_scales_all_channels_costs_nothing() -> None:
    """Control flow on data that the cut does not care about."""
    model = trap(lambda s, h, x: h * 2 if x.abs().max() > 8 else h)()
    groups = left_of(model)
    assert [group.name for group in groups] == ["first", "second"]
    assert [branch.kind for branch in groups.control_flow] == ["value"]


@pytest.mark.parametrize("module", [nn.Dropout(0.5), DropPath()])
def test_training_draws_nothing(module: nn.Module) -> None:
    class Dropping(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.drop = module

        def between(self, h: Tensor, x: Tensor) -> Tensor:
            return self.drop(h)  # type: ignore[no-any-return]

    model = Dropping()
    assert len(left_of(model)) == 2
    assert "in training mode" in str(settings_of(model, (images(),)))


class Sequences(nn.Module):
    """An attention and a recurrent layer, which draw where no function is called: (N, T, 6) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.attention = nn.Linear(6, 12), nn.MultiheadAttention(12, 4, 0.5, batch_first=True)
        self.units, self.head = nn.LSTM(12, 8, 2, batch_first=True, dropout=0.5), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x)
        return self.head(self.units(self.attention(h, h, h, need_weights=False)[0])[0].mean(1))  # type: ignore[no-any-return]


def test_attention_and_recurrent_layers_draw_nothing() -> None:
    x = torch.randn(4, 5, 6)
    groups = left_of(Sequences(), x)
    assert {group.name for group in groups} >= {"attention", "units"}
    assert Sequences().units.dropout == 0.5


def test_a_network_that_draws_in_training_is_not_compared_there() -> None:
    """Noise of a hidden layer's shape is another once channels are gone."""
    model = trap(lambda s, h, x: h + torch.randn_like(h) if s.training else h)()
    assert len(left_of(model)) == 2
    assert "in training mode (it draws at random there)" in proof_of(model).how


class Detector(Plain):
    """Boxes in pixels beside scores near one; what is wrong for larger images is small beside the boxes."""

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.first(x))
        scores = self.head(functional.relu(self.second(h)).mean((2, 3)))
        wrong = 1 + (h.shape[1] - 16) * 1e-3 * (x.shape[-1] > 16)
        return torch.cat([scores[:, :4] * 1e4, scores[:, 4:] * wrong], 1)


def halves(s: Any, h: Tensor, x: Tensor) -> Tensor:
    return centred(h) if x.shape[-1] / 2 > 50 else h


def test_what_a_quotient_of_a_size_is_compared_with_is_tried() -> None:
    model = trap(halves)()
    assert any("size 101" in row.reason for row in left_of(model, torch.rand(4, 3, 64, 64)).protected)


class Fourier(nn.Module):
    """A layer of a neural operator: its weights are complex, (N, 2, T) -> (N, 2, T)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lift, self.inner, self.head = nn.Conv1d(2, 16, 1), nn.Conv1d(16, 24, 1), nn.Conv1d(24, 2, 1)
        self.weight = nn.Parameter(torch.randn(16, 16, 5, dtype=torch.cfloat) / 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        modes = torch.einsum("bix,iox->box", torch.fft.rfft(h)[..., :5], self.weight)
        h = h + torch.fft.irfft(modes, n=x.shape[-1])
        return self.head(functional.relu(self.inner(h)))  # type: ignore[no-any-return]


class InSinglePrecision(Plain):
    """Computes in float32 whatever it is given; strong inputs are blurred by rounding, and mixed, too."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.from_numpy(x.detach().numpy().astype("float32"))
        h = functional.relu(self.first(x))
        h = centred(h) if x.abs().max() > 500 else h
        return torch.sin(20 * self.head(functional.relu(self.second(h)).mean((2, 3))))


def test_rounding_in_float32_excuses_no_difference() -> None:
    (row,) = (row for row in left_of(InSinglePrecision()).protected if row.layer == "first")
    assert "inputs times 1000" in row.reason


class LeavingOut(Plain):
    """A class that is never chosen has a logit of -inf."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).masked_fill(torch.arange(10) == 3, -torch.inf)


@pytest.mark.parametrize(
    ("model", "x"),
    [(Fourier(), torch.randn(4, 2, 32)), (LeavingOut(), images())],
    ids=["complex weights", "logits of -inf"],
)
def test_numbers_that_are_not_finite_or_real_are_compared(model: nn.Module, x: Tensor) -> None:
    pruned = compress(model, x, 0.5, score="filter_norm", export=False)
    assert all(proof.passed for proof in pruned.report.proofs)
    assert pruned.report.nodes.after == pruned.report.nodes.before // 2


def test_numbers_that_no_file_can_hold_are_named() -> None:
    model = Plain()
    model.register_buffer("table", torch.zeros(2, dtype=torch.cdouble))
    with pytest.raises(InputError, match="table holds complex128 numbers"):
        compress(model, images(), 0.5, score="filter_norm", export=False)


def test_small_outputs_beside_large_ones_are_compared() -> None:
    assert [group.name for group in left_of(Detector())] == ["second"]


def test_frozen_networks_are_compared_as_they_train_on() -> None:
    frozen = trap(TRAPS["what requires gradients"])().requires_grad_(False)
    assert [group.name for group in left_of(frozen)] == ["second"]
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


class Masked(nn.Module):
    """Ids and a mask; where a mask has zeros, channels are mixed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.up, self.head = nn.Embedding(9, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = functional.relu(self.up(self.words(ids)))
        h = h if bool((mask == 1).all()) else h - h.mean(-1, keepdim=True)
        return self.head(h).mean(1)  # type: ignore[no-any-return]


def test_masks_with_zeros_are_tried() -> None:
    ids, mask = torch.randint(0, 9, (4, 8)), torch.ones(4, 8, dtype=torch.int64)
    model = Masked()
    groups = channel_groups(model, (ids, mask))
    assert [group.name for group in groups] == ["up"]
    assert len(verified_groups(model, groups, (ids, mask))) == 0


def test_random_states_are_as_before() -> None:
    model, groups = Plain(), channel_groups(Plain(), images()[:1])
    before = random.getstate(), torch.get_rng_state()
    verified_groups(model, groups, (images()[:3],))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_network_that_keeps_a_result_can_be_compared() -> None:
    class Keeping(Hidden):
        def forward(self, x: Tensor) -> Tensor:
            self.kept = super().forward(x)
            return self.kept

    assert "up" not in {group.name for group in left_of(Keeping(0.0))}


def test_what_the_network_does_not_take_is_named() -> None:
    def between(s: Any, h: Tensor, x: Tensor) -> Tensor:
        if s.training:
            raise ValueError("training takes targets")
        if x.shape[-1] != 16:
            raise ValueError("made for 16 pixels")
        return h

    model = trap(between)()
    assert "not tried: other sizes, " in (how := proof_of(model).how)
    assert "in training mode" in how.partition("not tried:")[2]
    assert len(left_of(model)) == 2


def test_branches_name_module_kind_and_bound() -> None:
    model = nn.Sequential(trap(lambda s, h, x: h + 1 if x.shape[-1] * 2 > 40 or s.training else h)())
    flow = branches(model, (images(),))
    assert [(b.kind, b.module, b.size, b.bound) for b in flow] == [
        ("shape", "0", 32, 40.0),
        ("training", "0", None, None),
    ]
    assert all(b.line.startswith("test_silence.py:") for b in flow)


# ---- groups without influence


class Hidden(nn.Module):
    """A residual branch that a scale hides, and whose values depend on their width."""

    def __init__(self, scale: float, wrong: bool = True, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wrong = wrong
        self.stem, self.up = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 1)
        self.down, self.head = nn.Conv2d(32, 16, 1), nn.Linear(16, 10)
        self.norm = nn.BatchNorm2d(16, affine=norm) if norm else nn.Identity()
        for weight in self.norm.parameters():
            nn.init.constant_(weight, scale)
        self.alpha = nn.Parameter(torch.tensor(1.0 if norm else scale))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.stem(x))
        y = functional.relu(self.up(h))
        y = y * y.shape[1] ** -0.5 if self.wrong else y
        return self.head((h + self.alpha * self.norm(self.down(y))).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("norm", [False, True], ids=["a scalar", "a norm's weight"])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-4, 1.0])
def test_a_wrong_cut_behind_a_scale_is_found(scale: float, norm: bool) -> None:
    groups = left_of(Hidden(scale, norm=norm))
    assert "up" not in {group.name for group in groups}
    assert "stem" in {group.name for group in groups}


@pytest.mark.parametrize("norm", [False, True], ids=["a scalar", "a norm's weight"])
@pytest.mark.parametrize("scale", [0.0, 1e-6])
def test_a_right_cut_behind_a_scale_is_allowed(scale: float, norm: bool) -> None:
    assert {"up", "stem"} <= {group.name for group in left_of(Hidden(scale, wrong=False, norm=norm))}


def test_zeros_of_a_whole_weight_hide_too() -> None:
    model = Hidden(1.0)
    nn.init.zeros_(model.down.weight)
    assert "up" not in {group.name for group in left_of(model)}


def test_a_group_that_never_shows_is_protected_for_that() -> None:
    model = trap(lambda s, h, x: h * 0.0)()
    groups = channel_groups(model, images()[:1])
    assert exposed(model, groups, Settings((Setting("called", (images()[:2],)),))).silent == ("first",)
    reasons = {row.layer: row.reason for row in left_of(model).protected}
    assert "changes no output" in reasons["first"]


# ---- from one end to the other


@pytest.mark.parametrize("scale", [1e-6, 0.0])
def test_a_run_ends_with_all_proofs_where_protecting_a_group_does(scale: float) -> None:
    result = compress(Hidden(scale), images()[:1], nodes=0.2, score="filter_norm", export=False)
    assert all(proof.passed for proof in result.report.proofs)
    assert result.report.widths["up"] == (32, 32)


def test_the_report_says_what_was_seen_and_tried() -> None:
    model = trap(TRAPS["large images"])()
    report = compress(model, images()[:1], nodes=0.2, score="filter_norm", export=False).report
    (branch,) = report.control_flow
    assert (branch.kind, branch.bound) == ("shape", 16.0)
    how = next(proof.how for proof in report.proofs if proof.name == "closed_gates")
    assert all(words in how for words in ("size 32", "batch of 20", "times 10", "training", "gradients"))
