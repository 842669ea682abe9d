"""What a checkpoint is held against before a training goes on: its bytes, its fields, network and images."""

from __future__ import annotations

import copy
import dataclasses
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from structprune.data import Batches, read_images
from structprune.distributed import ProcessGroup
from structprune.errors import InputError, OutputError, ProofFailedError, StructpruneError, UsageError
from structprune.report.data import Proof
from structprune.scoring.samples import Samples
from structprune.training import Session, sealed_file, train
from structprune.training import checkpoint as files
from structprune.training.identity import difference, fingerprint
from structprune.training.methods import METHODS
from structprune.training.optimiser import optimiser
from structprune.training.pruning_step import Cutter, cutter
from structprune.training.resuming import load_optimiser, resumed
from tests.trainer.sessions import SmallResNet, colours, session


class StoppedError(Exception):
    pass


def stopped(asked: Session, after: int, spoil: Callable[[files.State], None] = lambda _: None) -> bytes:
    """Train until a checkpoint was written after so many epochs, and return what is in it."""
    save = files.save

    def save_and_stop(state: files.State, told: dict[str, object], path: Path) -> None:
        if state.epochs == after:
            spoil(state)
        save(state, told, path)
        if state.epochs == after:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "save", save_and_stop)
        with pytest.raises(StoppedError):
            train(asked)
    assert asked.checkpoint is not None
    return asked.checkpoint.read_bytes()


@dataclass(frozen=True)
class Stopped:
    """A training that was stopped, with all that it takes to read its checkpoint."""

    asked: Session
    fingerprint: dict[str, Any]
    cutter: Cutter
    path: Path
    content: bytes

    def resume(self) -> files.State:
        """Read the checkpoint as a training does, its optimiser too."""
        state = resumed(self.asked, self.cutter, self.fingerprint)
        assert state is not None
        assert state.optimiser is not None
        load_optimiser(optimiser(state.model, self.asked.recipe), state.optimiser, self.path)
        return state

    def refused(self) -> StructpruneError:
        """Hold that it is refused in a sentence that names the file."""
        with pytest.raises(StructpruneError) as caught:
            self.resume()
        assert self.path.name in str(caught.value)
        assert "\n" not in str(caught.value)
        return caught.value


@pytest.fixture(scope="module", params=["earlycrop-s", "ltr"])
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """After a cut: of channels, with a detector; of weights, with a point to rewind to."""
    path = tmp_path_factory.mktemp("stopped") / "training.pt"
    asked = session(request.param, checkpoint=path)
    return Stopped(asked, asked.fingerprint(), cutter(asked), path, stopped(asked, 3))


@pytest.fixture
def left(once: Stopped) -> Iterator[Stopped]:
    once.path.write_bytes(once.content)
    yield once
    once.path.unlink()


def test_a_flipped_bit_is_refused_wherever_it_is(left: Stopped) -> None:
    assert left.resume().epochs > 0
    places = random.Random(0).sample(range(len(left.content)), 40)
    places += range(len(left.content) - sealed_file.SEAL_SIZE, len(left.content), 7)
    for place in places:
        damaged = bytearray(left.content)
        damaged[place] ^= 1 << place % 8
        left.path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"training\.pt"):
            sealed_file.read(left.path)


@pytest.mark.parametrize("length", [0, 1, 1000, -1, -200])
def test_a_checkpoint_that_was_cut_off_is_refused(length: int, left: Stopped) -> None:
    left.path.write_bytes(left.content[:length])
    assert isinstance(left.refused(), InputError)


# Of other types than whatever stands there.
WRONG: tuple[Any, ...] = ("text", 3.5, -1, None, True, [], {}, torch.zeros(2))


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield (*path, key), value
        yield from _places(value, (*path, key))


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


def _edited(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place; DROP takes it away."""
    edited = copy.deepcopy(document)
    container = _at(edited, path[:-1])
    if value is DROP:
        container.pop(path[-1])
    else:
        container[path[-1]] = value
    return edited


DROP = object()


def _may_be(path: tuple[Any, ...], before: Any, value: Any) -> bool:
    """What could as well have been written: another figure, moments of a parameter that has no gradient."""
    figure = path[0] in ("series", "seconds", "log", "proofs", "plan") or path[-1] == "lr"
    other = value is None or type(value) in (int, float)
    another = figure and other and isinstance(before, (float, type(None)))
    return another or (value is DROP and path[:2] == ("optimiser", "state") and len(path) == 3)


def test_a_field_that_lacks_or_is_of_another_type_is_refused(left: Stopped) -> None:
    """With a checksum that holds: what wrote it did so by mistake."""
    document = sealed_file.read(left.path)
    edits = [
        (path, value)
        for path, before in _places(document)
        for value in (DROP, *WRONG)
        if path[0] != "fingerprint" and type(value) is not type(before) and not _may_be(path, before, value)
    ]
    top = [edit for edit in edits if len(edit[0]) == 1]
    deep = [edit for edit in edits if len(edit[0]) > 1]
    for path, value in random.Random(0).sample(top, 60) + random.Random(0).sample(deep, 40):
        sealed_file.write(left.path, _edited(document, path, value))
        left.refused()


def test_tensors_of_another_shape_or_type_are_refused(left: Stopped) -> None:
    document = sealed_file.read(left.path)
    tensors = [(path, x) for path, x in _places(document) if isinstance(x, Tensor) and path[0] != "watched"]
    for path, x in random.Random(0).sample(tensors, 12):
        shorter = x.reshape(-1)[:-1] if x.numel() > 1 else torch.zeros(3, dtype=x.dtype)
        sealed_file.write(left.path, _edited(document, path, shorter))
        left.refused()
        if path[0] in ("model", "point"):
            sealed_file.write(left.path, _edited(document, path, x.to(torch.complex64)))
            left.refused()


STORIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "an epoch less": lambda d: d["log"].pop(),
    "epochs in another order": lambda d: d["log"].reverse(),
    "an answer less": lambda d: d["answers"].pop(),
    "an answer more": lambda d: d["answers"].append(None),
    "a cut more": lambda d: d.__setitem__("cuts", d["cuts"] + 1),
    "an event less": lambda d: d["events"].pop(),
    "a proof less": lambda d: d["proofs"].pop(),
    "a value more": lambda d: d["series"].append(0.5),
    "another best epoch": lambda d: d.__setitem__("best", (d["best"][0], d["best"][1] + 1)),
    "more epochs than a step has": lambda d: d.__setitem__("within", 99),
    "another version": lambda d: d.__setitem__("schema", 1),
    "a strange field": lambda d: d.__setitem__("hook", "os.system"),
}


@pytest.mark.parametrize("story", STORIES)
def test_counts_that_contradict_each_other_are_refused(story: str, left: Stopped) -> None:
    document = sealed_file.read(left.path)
    STORIES[story](document)
    sealed_file.write(left.path, document)
    assert isinstance(left.refused(), InputError)


def test_a_proof_that_failed_is_no_ground_to_go_on(tmp_path: Path) -> None:
    asked = session("crop-s", checkpoint=tmp_path / "training.pt")

    def failing(state: files.State) -> None:
        state.proofs[0] = replace(state.proofs[0], passed=False, error=0.5)

    stopped(asked, 2, failing)
    with pytest.raises(ProofFailedError, match=r"training\.pt.*closed_gates.*0\.5") as caught:
        train(asked, resume=True)
    assert caught.value.exit_code == 4
    # Also where the checksum is gone with the editing.
    document = sealed_file.read(tmp_path / "training.pt")
    torch.save(document, tmp_path / "training.pt")
    with pytest.raises(ProofFailedError):
        train(asked, resume=True)


def test_a_checkpoint_without_its_checksum_is_refused(left: Stopped) -> None:
    torch.save(sealed_file.read(left.path), left.path)
    assert "checksum" in str(left.refused())
    assert sealed_file.is_ours(left.path)


# What differs ---------------------------------------------------------------------------------------------


def _with(model: nn.Module, edit: Callable[[Any], object]) -> nn.Module:
    edited = copy.deepcopy(model)
    edit(edited)
    return edited


def _images(batches: Batches, **changes: Any) -> Batches:
    return replace(batches, images=replace(batches.images, **changes))


def _one_changed(array: np.ndarray[Any, Any], index: tuple[int, ...], value: int) -> np.ndarray[Any, Any]:
    changed = array.copy()
    assert changed[index] != value
    changed[index] = value
    return changed


class Activated(SmallResNet):
    """With an activation that is no module and has no weights."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act


def _as(name: str, value: Any) -> Callable[[Session], Session]:
    return lambda s: replace(s, **{name: value(getattr(s, name)) if callable(value) else value})


def _in_samples(**changes: Any) -> Callable[[Session], Session]:
    return lambda s: replace(s, samples=replace(s.samples, **changes))


DIFFERENCES: dict[str, tuple[str, Callable[[Session], Session]]] = {
    "activation": ("one.2", _as("model", lambda m: _with(m, lambda x: x.one.__setitem__(2, nn.Tanh())))),
    "setting": ("one.2", _as("model", lambda m: _with(m, lambda x: setattr(x.one[2], "inplace", True)))),
    "eps": ("norm", _as("model", lambda m: _with(m, lambda x: setattr(x.norm, "eps", 0.1)))),
    "frozen": ("head", _as("model", lambda m: _with(m, lambda x: x.head.weight.requires_grad_(False)))),
    "hook": ("head", _as("model", lambda m: _with(m, lambda x: x.head.register_forward_hook(print)))),
    "weight": (
        "initial weights",
        _as("model", lambda m: _with(m, lambda x: x.head.bias.data.__setitem__(0, 1))),
    ),
    "mirror": ("training images, mirrored", _as("train", lambda b: _images(b, mirrors=False))),
    "one pixel": (
        "training images, checksum",
        _as("train", lambda b: _images(b, images=_one_changed(b.images.images, (47, 7, 7, 2), 255))),
    ),
    "one label": (
        "training images, labels",
        _as("train", lambda b: _images(b, labels=_one_changed(b.images.labels, (47,), 0))),
    ),
    "classes": ("training images, classes", _as("train", lambda b: _images(b, classes=("a", "b", "c")))),
    "one image of the validation": (
        "validation images, checksum",
        _as("validation", lambda b: _images(b, images=_one_changed(b.images.images, (0, 0, 0, 0), 255))),
    ),
    "no validation": ("validation images", _as("validation", lambda _: None)),
    "normalisation": (
        "training images, mean",
        _as("train", lambda b: replace(b, preprocessing=replace(b.preprocessing, mean=(0.1,) * 3))),
    ),
    "scoring inputs": ("scoring inputs", lambda s: _in_samples(batches=s.samples.batches[1:])(s)),
    "loss": ("scoring inputs, loss", _in_samples(loss=nn.functional.multi_margin_loss)),
    "method": ("method", lambda s: replace(s, name="crop-s", method=METHODS["crop-s"])),
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_what_differs_is_seen_and_named(what: str) -> None:
    where, edit = DIFFERENCES[what]
    asked = session("cropit-s")
    assert difference(fingerprint(asked), fingerprint(session("cropit-s"))) is None
    found = difference(fingerprint(asked), fingerprint(edit(asked)))
    assert found is not None
    assert where in found[0]


def test_a_function_that_is_held_as_an_attribute_is_told_by_what_it_does() -> None:
    def told(act: Callable[[Tensor], Tensor]) -> Any:
        torch.manual_seed(0)
        return fingerprint(replace(session("dense"), model=Activated(act)))

    def by(factor: float) -> Callable[[Tensor], Tensor]:
        return lambda x: factor * x

    assert difference(told(by(1.0)), told(by(1.0))) is None
    for one, other in ((torch.relu, torch.tanh), (by(1.0), by(2.0)), (lambda x: x + 1, lambda x: x - 1)):
        assert difference(told(one), told(other)) is not None


OTHER: dict[str, Any] = {
    "floor": 0.3,
    "latest": 3,
    "precision": "bfloat16",
    "crew": ProcessGroup(0, 2),
    "epochs": 7,
    "remove": 0.25,
    "name": "other",
    "steps": 9,
}
NO_PART = {"device", "checkpoint"}


def test_every_setting_of_a_session_is_part_of_its_fingerprint() -> None:
    asked = session("dense")
    edited = {
        "model": _with(asked.model, lambda m: m.one.__setitem__(2, nn.Tanh())),
        "example": (torch.zeros(2, 3, 9, 9),),
        "method": replace(asked.method, l1=1.0),
        "recipe": replace(asked.recipe, clip=1.0),
        "train": colours(48, seed=3),
        "validation": None,
        "samples": replace(asked.samples, real=False),
        **OTHER,
    }
    for field in dataclasses.fields(Session):
        if field.name in NO_PART:
            continue
        value = getattr(asked, field.name)
        other = edited.get(field.name, (not value) if isinstance(value, bool) else None)
        other = value + 1 if type(value) is int and field.name not in edited else other
        change: dict[str, Any] = {field.name: other}
        assert difference(fingerprint(asked), fingerprint(replace(asked, **change))), field.name


def test_every_setting_of_a_recipe_is_part_of_the_fingerprint() -> None:
    asked = session("dense")
    for field in dataclasses.fields(asked.recipe):
        value = getattr(asked.recipe, field.name)
        other = {"kind": "adam", "drops": (0.5,), "clip": 1.0}.get(field.name, value)
        other = (not value) if isinstance(value, bool) else value + 1 if other == value else other
        change: dict[str, Any] = {field.name: other}
        recipe = replace(asked.recipe, **change)
        found = difference(fingerprint(asked), fingerprint(replace(asked, recipe=recipe)))
        assert found is not None
        assert field.name in found[0]


def test_every_field_of_samples_is_part_of_the_fingerprint() -> None:
    """A new field has to be thought of here."""
    # The last two are words about the loss.
    known = {"batches", "loss", "forward", "real", "how", "classes", "crew", "objective", "notable"}
    assert {field.name for field in dataclasses.fields(Samples)} <= known


def test_a_picture_that_changed_is_seen(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(2):
            pixels = np.full((8, 8, 3), 40 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    asked = session("dense")

    def told() -> Any:
        return fingerprint(replace(asked, train=replace(asked.train, images=read_images(tmp_path))))

    before = told()
    assert difference(before, told()) is None
    pixels[3, 3, 1] += 1
    Image.fromarray(pixels).save(tmp_path / "b" / "1.png")
    found = difference(before, told())
    assert found is not None
    assert found[0] == "training images, checksum"


BLOCK = """
from torch import nn
import own_helper

class Block(nn.Linear):
    def forward(self, x):
        return own_helper.bent(super().forward(x))
"""


def test_code_beside_a_networks_classes_is_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from structprune.training.description import code_of

    (tmp_path / "own_block.py").write_text(BLOCK)
    (tmp_path / "own_helper.py").write_text("def bent(x):\n    return x.relu()\n")
    monkeypatch.syspath_prepend(tmp_path)
    import own_block  # type: ignore[import-not-found]

    network = nn.Sequential(own_block.Block(2, 2))
    before = code_of(network)
    assert set(before) == {"own_block", "own_helper"}
    (tmp_path / "own_helper.py").write_text("def bent(x):\n    return x.tanh()\n")
    assert {name for name, told in code_of(network).items() if told != before[name]} == {"own_helper"}
    for name in ("own_block", "own_helper"):
        del sys.modules[name]


def test_another_network_is_refused_and_the_old_checkpoint_stays(tmp_path: Path) -> None:
    asked = session("dense", checkpoint=tmp_path / "training.pt")
    content = stopped(asked, 2)
    tanh = _with(asked.model, lambda m: m.one.__setitem__(2, nn.Tanh()))
    with pytest.raises(UsageError, match=r"training\.pt is of another training.*one\.2.*ReLU.*Tanh"):
        train(replace(asked, model=tanh), resume=True)
    assert (tmp_path / "training.pt").read_bytes() == content


# Files that are none of ours ------------------------------------------------------------------------------

STRANGERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("my own notes"),
    "nothing": lambda path: path.write_bytes(b""),
    "weights": lambda path: torch.save({"weight": torch.ones(3)}, path),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("elsewhere"),
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("resume", [False, True])
def test_a_strangers_file_is_neither_read_nor_replaced(kind: str, resume: bool, tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    STRANGERS[kind](path)
    before = path.lstat()
    with pytest.raises((OutputError, InputError), match=r"training\.pt"):
        train(session("dense", checkpoint=path), resume=resume)
    sealed_file.remove(path)
    assert path.lstat().st_ino == before.st_ino
    assert path.lstat().st_size == before.st_size
    assert [each.name for each in tmp_path.iterdir()] == ["training.pt"]


def test_a_strangers_draft_is_left_alone(tmp_path: Path) -> None:
    """Of the names that drafts have and had."""
    (tmp_path / "training.draft").write_text("my own")
    (tmp_path / ".training.pt.new-abcdefgh").mkdir()
    (tmp_path / ".training.pt.new-abcdefgh" / "training.pt").write_text("my own")
    train(session("dense", epochs=1, checkpoint=tmp_path / "training.pt"))
    assert (tmp_path / "training.draft").read_text() == "my own"
    assert (tmp_path / ".training.pt.new-abcdefgh" / "training.pt").read_text() == "my own"


def test_a_proof_is_written_field_by_field() -> None:
    """A field of a proof is checked by its annotation; one of another kind has to be thought of."""
    from structprune.training.document import row_fits

    proof = Proof("closed_gates", True, 0.0, 1e-4, 1e-6, 1e-3, 0.5, "so", None)
    row = dataclasses.asdict(proof)
    assert row_fits(row, Proof)
    for field, value in (("passed", 1), ("error", None), ("how", None), ("name", "strange"), ("spread", "x")):
        assert not row_fits({**row, field: value}, Proof)
