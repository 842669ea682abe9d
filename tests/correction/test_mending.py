"""When a cut network is mended, when it stays as it was cut, and what is left alone meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from structprune.errors import UsageError
from structprune.models.definitions import MODELS
from structprune.nn.layers import batch_norms
from structprune.pruning.budget import Budget, Plan
from structprune.reconstruction import Reconstruction, asked_for, rechoose, reconstruct, reconstruction_on
from structprune.reconstruction import methods as mending
from structprune.reconstruction.batch_norm import recalibrate
from structprune.reconstruction.least_squares import refit
from structprune.reconstruction.methods import chunks, distance, outputs
from structprune.reconstruction.observed_pass import Fit
from structprune.reconstruction.refittable_layers import Reader
from tests.cuts import Cut, like_trained
from tests.networks import NETWORKS, Tiny, TinyConvBN, TinyMLP, example
from tests.oracles.state import changed, snapshot

METHODS = ("least-squares", "batch-norm")


def cut_of(network: type[Tiny], batch: int = 160) -> Cut:
    return Cut(like_trained(network()), (example(network, batch),))


def mended(cut: Cut, method: str = "least-squares") -> mending.Reconstructed:
    return reconstruct(cut.dense, cut.small, cut.groups, cut.plan, reconstruction_on(method, cut.inputs))


def apart(cut: Cut, model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    return distance(outputs(model, inputs), outputs(cut.dense, inputs))


@pytest.mark.parametrize("network", NETWORKS)
def test_a_mended_network_is_nearer_on_inputs_that_it_never_saw(network: type[Tiny]) -> None:
    cut = cut_of(network)
    found = mended(cut)
    others = (torch.randn(50, *network.input_shape),)
    assert found.model is not cut.small
    assert apart(cut, found.model, others) < 0.8 * apart(cut, cut.small, others)
    assert found.note is not None
    assert found.note.startswith(f"mended by least-squares, {len(found.changed)} layers on 128 inputs")
    assert "on 32 other inputs" in found.note


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_incoming_networks_or_of_the_world_changes(method: str) -> None:
    cut = cut_of(TinyConvBN)
    cut.dense.train()
    before = [snapshot(net) for net in (cut.dense, cut.small)]
    mended(cut, method)
    for old, net in zip(before, (cut.dense, cut.small), strict=True):
        assert changed(old, snapshot(net)) == []


def test_what_is_mended_is_a_plain_network_that_trains_on() -> None:
    found = mended(cut_of(TinyConvBN)).model
    assert not any(module.training for module in found.modules())
    found.train()(example(TinyConvBN)).sum().backward()
    assert all(p.grad is not None and p.is_leaf for p in found.parameters())


def test_the_same_call_gives_the_same_network() -> None:
    one, other = (mended(cut_of_seeded()).model.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def cut_of_seeded() -> Cut:
    torch.manual_seed(3)
    return cut_of(TinyConvBN)


def test_the_residual_stream_of_a_real_network_is_mended_too() -> None:
    model = like_trained(MODELS["cifar_resnet20"](shortcut="projection"))
    cut = Cut(model, (torch.randn(40, 3, 8, 8),))
    found = mended(cut)
    cut_too = {row.layer for group in cut.groups for row in group.producers if len(group.producers) > 1}
    assert cut_too
    assert {"layer1.0.conv1", "layer3.2.conv2", "linear"} <= set(found.changed)
    others = (torch.randn(20, 3, 8, 8),)
    assert apart(cut, found.model, others) < apart(cut, cut.small, others)


# ---- where it does not help


def test_a_network_of_which_nothing_is_cut_is_handed_back() -> None:
    cut = cut_of(TinyMLP)
    whole = Plan({g.name: torch.ones(g.size, dtype=torch.bool) for g in cut.groups}, Budget(0.0), 0.0)
    for method in METHODS:
        found = reconstruct(cut.dense, cut.small, cut.groups, whole, reconstruction_on(method, cut.inputs))
        assert (found.model, found.changed, found.note) == (cut.small, (), None)


def test_what_does_not_come_nearer_on_inputs_held_out_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(dense: nn.Module, small: nn.Module, kept: object, inputs: object) -> list[str]:
        small.get_parameter("head.bias").data.add_(100)
        return ["head"]

    cut = cut_of(TinyMLP)
    before = snapshot(cut.small)
    monkeypatch.setattr(mending, "METHODS", {"least-squares": spoil})
    found = mended(cut)
    assert (found.model, found.changed) == (cut.small, ())
    assert changed(before, snapshot(cut.small)) == []
    assert found.note is not None
    assert "not mended" in found.note
    assert "the cut leaves them at" in found.note


def test_inputs_of_another_kind_than_those_held_out_show_in_the_verdict() -> None:
    """Fitted on next to nothing but zeros, layers know nothing of real inputs."""
    cut = cut_of(TinyMLP)
    given = Reconstruction("least-squares", (torch.zeros(20, 5) + 3,), cut.inputs)
    found = reconstruct(cut.dense, cut.small, cut.groups, cut.plan, given)
    assert found.model is cut.small or apart(cut, found.model, cut.inputs) < apart(cut, cut.small, cut.inputs)


class Failing(nn.Module):
    """A forward pass that some inputs break."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.first, self.last = limit, nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.limit:
            raise ValueError("too many at once")
        out: Tensor = self.last(torch.relu(self.first(x)))
        return out


def test_a_network_that_does_not_run_stays_as_it_was_cut() -> None:
    cut = Cut(Failing(8), (torch.randn(8, 5),))
    given = reconstruction_on("least-squares", (torch.randn(60, 5),))
    found = reconstruct(cut.dense, cut.small, cut.groups, cut.plan, given)
    assert found.model is cut.small
    assert found.note == "not mended: too many at once"


@pytest.mark.parametrize("options", [{"track_running_stats": False}, {"affine": False}])
def test_batch_norms_of_any_kind_are_mended_around(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    model = like_trained(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16, **options),
            nn.ReLU(),
            nn.Conv2d(16, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12, **options),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12 * 64, 5),
        )
    ).eval()
    cut = Cut(model, (torch.randn(160, 3, 8, 8),))
    given = reconstruction_on("least-squares", cut.inputs, rechooses=True)
    plan = rechoose(cut.dense, cut.groups, cut.plan, given)
    assert any(not torch.equal(keep, plan.keep[name]) for name, keep in cut.plan.keep.items())
    found = mended(cut)
    others = (torch.randn(64, 3, 8, 8),)
    assert found.changed == ("3", "7")  # nothing changes what the first layer reads
    assert apart(cut, found.model, others) < apart(cut, cut.small, others)


def test_a_network_without_batch_norms_has_no_statistics_to_take() -> None:
    cut = cut_of(TinyMLP)
    found = mended(cut, "batch-norm")
    assert found.model is cut.small
    assert found.note is not None
    assert "nothing in it can be" in found.note


# ---- batch-norm statistics


def test_recalibrated_statistics_are_those_of_the_inputs() -> None:
    model, x = like_trained(TinyConvBN()).eval(), example(TinyConvBN, 60)
    names = recalibrate(model, (x,))
    assert names == [name for name, _ in batch_norms(model)]
    with torch.no_grad():
        y = model.get_submodule("conv1")(x)
    torch.testing.assert_close(model.get_buffer("bn1.running_mean"), y.mean((0, 2, 3)))
    torch.testing.assert_close(model.get_buffer("bn1.running_var"), y.var((0, 2, 3)))


# ---- which inputs, how many, how split


def test_inputs_that_judge_are_none_of_those_that_mend() -> None:
    numbers = torch.arange(100.0).reshape(100, 1)
    found = reconstruction_on("least-squares", (numbers, numbers + 1000), seed=4)
    fitted, held = (x[0].flatten().tolist() for x in (found.fitted, found.held_out))
    assert sorted(fitted + held) == numbers.flatten().tolist()
    assert (len(fitted), len(held)) == (80, 20)
    assert torch.equal(found.fitted[1], found.fitted[0] + 1000)
    again = reconstruction_on("least-squares", (numbers,), seed=4)
    assert again.fitted[0].flatten().tolist() == fitted


def test_many_inputs_are_cut_down_to_512_and_128() -> None:
    found = reconstruction_on("batch-norm", (torch.zeros(2000, 1),))
    assert (len(found.fitted[0]), len(found.held_out[0])) == (512, 128)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: reconstruction_on("least-squares", (torch.zeros(5, 1),)), "5 inputs are too few"),
        (lambda: reconstruction_on("magic", (torch.zeros(50, 1),)), "unknown correction 'magic'"),
        (lambda: asked_for("magic", True, True), "known: least-squares, batch-norm, none"),
        (lambda: asked_for("batch-norm", True, False), "batch-norm corrects a network on data"),
    ],
)
def test_misuse_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()


@pytest.mark.parametrize(
    ("method", "trained", "data", "expected"),
    [
        (None, True, True, "least-squares"),
        (None, False, True, None),
        (None, True, False, None),
        ("none", True, True, None),
        ("none", True, False, None),
        ("batch-norm", False, True, "batch-norm"),
    ],
)
def test_the_default_is_least_squares_on_a_trained_network_with_data(
    method: str | None, trained: bool, data: bool, expected: str | None
) -> None:
    assert asked_for(method, trained, data) == expected


def test_chunks_keep_every_layer_below_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "CHUNK_BYTES", 8 * 10 * 3)
    found = [Reader("a", None, False, outputs=10, inputs=2), Reader("b", None, False, 4, 9)]
    assert [len(x) for (x,) in chunks((torch.zeros(8, 1),), found)] == [3, 3, 2]


def test_a_network_in_small_chunks_comes_out_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cut_of(TinyConvBN)
    whole = mended(cut).model.state_dict()
    monkeypatch.setattr(mending, "CHUNK_BYTES", 8 * 4 * 64 * 10)
    sizes: list[int] = []

    def noted(fit: Fit, found: Sequence[Reader]) -> list[str]:
        sizes.append(len(fit.chunks))
        return refit(fit, found)

    monkeypatch.setattr(mending, "refit", noted)
    parts = mended(cut).model.state_dict()
    assert sizes == [13]
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


def test_a_distance_is_of_the_spread_and_zero_for_equals() -> None:
    a = torch.randn(500, dtype=torch.float64)
    assert distance([a], [a]) == 0
    assert distance([a + 2 * a.std(correction=0)], [a]) == pytest.approx(2)
    assert distance([a, a * 0], [a, a * 0]) == 0
