"""Every method, trained: its sparsity to the weight or node, and the same network after an interruption."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from structprune.channels import channel_groups
from structprune.distributed import ProcessGroup
from structprune.errors import InputError, TargetUnreachableError, UsageError
from structprune.pruning.counts import weight_entries
from structprune.pruning.masks import kept_count
from structprune.training import Session, Trained, evaluate, schedules, train
from structprune.training import checkpoint as files
from structprune.training.detectors import LazyRegime
from structprune.training.methods import METHODS
from tests.oracles.state import changed, snapshot, world
from tests.trainer.sessions import SmallResNet, colours, session

CHANNELS = [name for name, method in METHODS.items() if method.gates == "channels"]
WEIGHTS = [name for name, method in METHODS.items() if method.gates == "weights"]
LISTED = {
    *("random-s", "random-u", "magnitude", "snap", "crop-s", "cropit-s", "earlycrop-s", "earlybird"),
    *("gate-decorators", "efficient-convnets", "ntk-sap-s", "snip", "iter-snip", "force", "grasp"),
    *("synflow", "ntk-sap", "crop-u", "cropit-u", "earlycrop-u", "ltr", "structprune", "dense"),
}


def state_of(model: nn.Module) -> dict[str, bytes]:
    return {name: x.numpy().tobytes() for name, x in model.state_dict().items()}


def nodes_left(asked: Session, trained: Trained) -> int:
    """Counted on the network itself: output channels of every conv and linear layer but the head."""
    layers = [m for m in trained.model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    head = asked.model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    return sum(len(layer.weight) for layer in layers) - head.out_features


def test_every_method_that_was_promised_is_there() -> None:
    assert set(METHODS) >= LISTED


@pytest.mark.parametrize("name", CHANNELS)
def test_a_method_on_channels_removes_its_nodes(name: str) -> None:
    asked = session(name)
    before = snapshot(asked.model)
    trained = train(asked)
    nodes = channel_groups(asked.model, asked.example).nodes
    assert trained.removed == pytest.approx(0.5, abs=3 / nodes)
    assert nodes_left(asked, trained) == nodes - round(trained.removed * nodes)
    assert trained.proof is not None
    assert trained.proof.passed
    assert len(trained.log) == asked.epochs
    assert changed(before, snapshot(asked.model)) == []
    assert evaluate(trained.model, colours(30, seed=2)) > 0.4


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("remove", [0.5, 0.837])
def test_a_method_on_weights_keeps_exactly_its_share(name: str, remove: float) -> None:
    asked = session(name, remove)
    trained = train(asked)
    entries = weight_entries(asked.model)
    kept = sum(int(mask.sum()) for mask in trained.masks.values())
    assert kept == kept_count(entries, remove) == round((1 - remove) * entries)
    weights = {n: p for n, p in trained.model.named_parameters() if n in trained.masks}
    assert len(weights) == len(trained.masks) == 6
    for key, weight in weights.items():
        assert torch.count_nonzero(weight[~trained.masks[key]]) == 0
    assert sum(int(torch.count_nonzero(w)) for w in weights.values()) > 0.9 * kept
    assert len(trained.log) == asked.epochs


def test_dense_removes_nothing() -> None:
    trained = train(session("dense"))
    assert (trained.removed, trained.events, trained.masks) == (0.0, (), {})
    assert evaluate(trained.model, colours(30, seed=2)) > 0.8


class StoppedError(Exception):
    pass


@cache
def whole_training(name: str) -> Trained:
    return train(session(name))


RESUMED = ("dense", "cropit-s", "earlycrop-s", "earlybird", "gate-decorators", "iter-snip", "ltr", "force")


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    name: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whole_training(name)
    path = tmp_path / "training.pt"
    save = files.save

    def save_and_stop(state: files.State, fingerprint: dict[str, object], path: Path) -> None:
        save(state, fingerprint, path)
        if state.epochs == after:
            raise StoppedError

    monkeypatch.setattr(files, "save", save_and_stop)
    with pytest.raises(StoppedError):
        train(session(name, checkpoint=path))
    monkeypatch.setattr(files, "save", save)
    said: list[str] = []
    resumed = train(session(name, checkpoint=path), resume=True, say=said.append)
    assert said[0] == f"going on after epoch {after}"
    assert state_of(resumed.model) == state_of(whole.model)
    assert [e.loss for e in resumed.log] == [e.loss for e in whole.log]
    assert (resumed.events, resumed.removed) == (whole.events, whole.removed)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    train(session("dense", epochs=1, checkpoint=path))
    with pytest.raises(UsageError, match="its epochs was 1, now 2"):
        train(session("dense", epochs=2, checkpoint=path), resume=True)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_broken_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"training\.pt is no checkpoint"):
        train(session("dense", checkpoint=path), resume=True)


def test_training_leaves_the_random_state_as_it_was() -> None:
    asked = session("cropit-s", epochs=2)
    before = world()
    train(asked)
    assert changed(before, world()) == []


def test_pruned_weights_never_come_back_in_iterative_methods() -> None:
    """What one of four cuts masks is masked by all that follow."""
    seen: list[dict[str, torch.Tensor]] = []
    asked = session("iter-snip", 0.8, epochs=1)
    from structprune.training import pruning_step as cutting

    cut = cutting.cutter(asked)
    state = files.State(asked.model)
    for fraction in schedules.exponential(0.8, 4):
        state.model = cut.cut(state, fraction).model
        seen.append({name: mask.clone() for name, mask in state.masks.items()})
    for earlier, later in pairwise(seen):
        assert all(not (later[name] & ~earlier[name]).any() for name in earlier)


def test_weights_may_come_back_under_force() -> None:
    from structprune.training import pruning_step as cutting

    asked = session("force", 0.9, epochs=1)
    cut, state = cutting.cutter(asked), files.State(asked.model)
    seen = []
    for fraction in schedules.exponential(0.9, 6):
        state.model = cut.cut(state, fraction).model
        seen.append({name: mask.clone() for name, mask in state.masks.items()})
    assert any((later[n] & ~earlier[n]).any() for earlier, later in pairwise(seen) for n in later)


def test_a_target_out_of_reach_is_refused_before_training() -> None:
    with pytest.raises(TargetUnreachableError, match="allows 0 to"):
        train(session("snap", 0.99))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"remove": 1.0}, {"remove": 0.0}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        train(replace(session("snap"), **wrong))  # type: ignore[arg-type]


def test_an_early_cut_says_when_its_detector_fired_or_that_it_never_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    never = train(session("earlycrop-s", epochs=8, latest=3, published_detector=True, remove=0.6)).detection
    assert never is not None
    assert never.latest == 3
    assert len(never.series) <= 3
    monkeypatch.setattr(LazyRegime, "fires", lambda _, series: len(series) == 3)
    fired = train(session("earlycrop-s", latest=4)).detection
    assert fired is not None
    assert (fired.latest, fired.fired_after, len(fired.series)) == (4, 3, 3)


def test_the_published_length_is_longer() -> None:
    ours, theirs = (train(session("earlycrop-s", epochs=4, published_length=long)) for long in (False, True))
    assert len(ours.log) == 4
    assert len(theirs.log) == 4 + len(theirs.detection.series)  # type: ignore[union-attr]


def test_training_in_bfloat16_and_channels_last_learns_too() -> None:
    trained = train(session("crop-s", precision="bfloat16", channels_last=True))
    assert all(p.dtype == torch.float32 for p in trained.model.parameters())
    assert evaluate(trained.model, colours(30, seed=2)) > 0.6


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("snap", {"latest": 2}, "latest="),
        ("snap", {"steps": 3}, "steps="),
        ("snip", {"align": 8}, "align="),
        ("snip", {"published_length": True}, "published_length="),
        ("earlybird", {"published_detector": True}, "published_detector="),
    ],
)
def test_what_means_nothing_to_a_method_is_refused(name: str, wrong: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        train(replace(session(name), **wrong))  # type: ignore[arg-type]


def test_a_batch_too_small_for_its_processes_is_refused() -> None:
    with pytest.raises(UsageError, match="2 images a step"):
        train(replace(session("snap"), crew=ProcessGroup(0, 9)))


class Chain(nn.Module):
    """No way round its layers: where one is dead, all is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x)
        return scores


def test_layers_that_lost_all_their_weights_are_named() -> None:
    from structprune.pruning.masks import collapsed

    model = Chain()
    with torch.no_grad():
        model.get_parameter("body.2.weight").mul_(1e-6)
    trained = train(replace(session("magnitude", 0.9), model=model))
    assert collapsed(trained.masks) == ("body.2",)


def test_shared_weights_are_refused() -> None:
    model = SmallResNet()
    model.two[0].weight = model.one[0].weight
    with pytest.raises(InputError, match="shared"):
        train(replace(session("snip"), model=model))


def test_another_parametrization_is_left_alone() -> None:
    model = SmallResNet()
    nn.utils.parametrizations.spectral_norm(model.head)
    assert train(replace(session("dense", epochs=1), model=model)).masks == {}
