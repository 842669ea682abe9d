from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from structprune.cli.output_file import staged_file
from structprune.errors import OutputError
from structprune.models.results import (
    PLAN,
    check_target,
    save_weights_and_plan,
    staged_folder,
    swapping,
    widths_of,
)
from structprune.models.results.plan_file import read_plan
from structprune.pruning.budget import Budget, Plan
from structprune.report.serialise import to_json
from tests.results import small_plan, small_report


def _write(folder: Path, name: str) -> None:
    (folder / PLAN).write_text(small_plan(name))
    (folder / "report.md").write_text(name)


def _is(folder: Path) -> str:
    """The name of what a whole folder holds: in its plan, and in the file that its plan tells of."""
    name, text = read_plan(folder).name, (folder / "report.md").read_text()
    assert name == text
    assert _names(folder) == sorted([PLAN, "report.md"])
    return name


def _write_until(error: type[BaseException], target: Path, force: bool = False) -> None:
    with staged_folder(target, force) as folder:
        _write(folder, "half")
        raise error


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """An earlier result of ours."""
    with staged_folder(tmp_path / "result") as folder:
        _write(folder, "old")
    return tmp_path / "result"


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_folder_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "result"
    with staged_folder(target) as folder:
        _write(folder, "new")
        assert not target.exists()
        assert folder.parent == tmp_path
    assert _names(tmp_path) == ["result"]
    assert _names(target) == sorted([PLAN, "report.md"])


def test_the_folder_has_the_mode_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with staged_folder(tmp_path / "result"):
        pass
    assert (tmp_path / "result").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_when_the_work_fails(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error):
        _write_until(error, tmp_path / "a" / "b" / "result")
    assert _names(tmp_path) == []


def test_missing_folders_above_are_made(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "a" / "b") as folder:
        _write(folder, "new")
    assert _is(tmp_path / "a" / "b") == "new"


def test_an_existing_folder_needs_force(result: Path) -> None:
    with pytest.raises(OutputError, match="force="):
        check_target(result)
    with pytest.raises(OutputError, match="force="), staged_folder(result):
        pytest.fail("no work may begin")
    assert _is(result) == "old"


def test_force_replaces_a_result_of_ours(result: Path) -> None:
    with staged_folder(result, force=True) as folder:
        _write(folder, "new")
        assert _is(result) == "old"
    assert _is(result) == "new"
    assert _names(result.parent) == ["result"]


def test_force_and_a_failure_keep_the_old_result(result: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _write_until(KeyboardInterrupt, result, force=True)
    assert _is(result) == "old"
    assert _names(result.parent) == ["result"]


def test_a_rename_that_fails_brings_the_old_result_back(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, calls = Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(swapping, "exchanged", lambda *_: False)
    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(OutputError, match="input/output error"), staged_folder(result, force=True) as folder:
        _write(folder, "new")
    assert _is(result) == "old"
    assert _names(result.parent) == ["result"]


@pytest.mark.parametrize("stranger", ["photo.jpg", "deep", "model.onnx"])
def test_a_strangers_file_is_never_removed(stranger: str, result: Path) -> None:
    if stranger == "photo.jpg":
        (result / stranger).write_text("precious")
    elif stranger == "deep":
        (result / stranger).mkdir()
    else:
        (result / stranger).symlink_to(result / PLAN)  # one of our names, but a link
    before = _names(result)
    with pytest.raises(OutputError, match=stranger):
        check_target(result, force=True)
    with pytest.raises(OutputError, match=stranger), staged_folder(result, force=True):
        pytest.fail("no work may begin")
    assert _names(result) == before


def test_a_strangers_file_that_comes_in_meanwhile_is_kept(result: Path) -> None:
    with pytest.raises(OutputError, match=r"photo\.jpg"), staged_folder(result, force=True):
        (result / "photo.jpg").write_text("precious")
    assert _names(result) == sorted([PLAN, "photo.jpg", "report.md"])
    assert _names(result.parent) == ["result"]


def test_only_real_folders_with_our_plan_are_replaced(tmp_path: Path, result: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(result)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, words in {"empty": "no plan", "file": "a file", "link": "a link", "dangling": "a link"}.items():
        with pytest.raises(OutputError, match=words):
            check_target(tmp_path / name, force=True)
    assert _is(result) == "old"


def test_the_current_the_home_and_the_root_folder_are_never_replaced(
    result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match="never replaced"):
        check_target(Path("/"), force=True)
    monkeypatch.setattr(Path, "home", lambda: result)
    with pytest.raises(OutputError, match="never replaced"):
        check_target(result, force=True)
    monkeypatch.undo()
    monkeypatch.chdir(result)
    with pytest.raises(OutputError, match="never replaced"):
        check_target(Path(), force=True)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
@pytest.mark.parametrize("target", ["/proc/x", "/proc/x/y"])
def test_places_that_can_not_be_written(target: str) -> None:
    with pytest.raises(OutputError, match="can't be written"):
        check_target(Path(target))


def test_a_file_above_the_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="not a directory"):
        check_target(tmp_path / "file" / "result")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="permission denied"):
        check_target(tmp_path / "result")


@contextmanager
def _largest_file(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    model = nn.Linear(1000, 1000)
    plan = Plan({"gate": torch.ones(4, dtype=torch.bool)}, Budget(0.0), 0.0)
    with (
        pytest.raises(OutputError, match="can't be written: file too large"),
        _largest_file(1 << 20),
        staged_folder(tmp_path / "result") as folder,
    ):
        save_weights_and_plan(folder, model, plan, None, (1000,), dense_widths=widths_of(model))
    assert _names(tmp_path) == []


def test_a_full_disk_keeps_the_old_result(result: Path) -> None:
    with (
        pytest.raises(OutputError, match="file too large"),
        _largest_file(1 << 20),
        staged_folder(result, force=True) as folder,
    ):
        save_file({"weight": torch.zeros(1 << 20)}, folder / "model.safetensors")
    assert _is(result) == "old"
    assert _names(result.parent) == ["result"]


def test_no_space_left(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no space left on device"), staged_folder(tmp_path / "result"):
        raise OSError(28, "No space left on device")
    assert _names(tmp_path) == []


def test_errors_that_are_not_the_disks_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "result") as folder:
        (folder / "nowhere" / "file").write_text("")
    assert _names(tmp_path) == []


def test_a_result_is_as_readable_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with staged_folder(tmp_path / "result") as folder:
        private = folder / "model.safetensors"
        private.write_text("")
        private.chmod(0o600)
    written = (tmp_path / "result" / "model.safetensors").stat()
    assert written.st_mode == (tmp_path / "plain").stat().st_mode


# Whose a folder is ----------------------------------------------------------------------------------------


def _edit_plan(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads((folder / PLAN).read_text())
    edit(fields)
    (folder / PLAN).write_text(json.dumps(fields))


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A result with weights and an ONNX file."""
    model = nn.Linear(3, 2)
    plan = Plan({}, Budget(0.0), 0.0)
    with staged_folder(tmp_path / "cut") as folder:
        save_weights_and_plan(folder, model, plan, None, (3,), dense_widths=widths_of(model))
        (folder / "model.onnx").write_bytes(b"graph")
        (folder / "report.json").write_text(to_json(small_report()))
    return tmp_path / "cut"


STRANGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a plan of one's own": (
        lambda folder: (folder / PLAN).write_text('{"what": "my travel plan"}'),
        "no result of structprune",
    ),
    "a file more": (lambda folder: (folder / "report.md").write_text("mine"), r"report\.md"),
    "another file": (lambda folder: (folder / "model.onnx").write_bytes(b"mine!"), r"model\.onnx"),
    "a byte of the weights": (lambda folder: _flip(folder / "model.safetensors"), r"model\.safetensors"),
    "a report with a word more": (
        lambda folder: (folder / "report.json").write_text(to_json(small_report()) + " "),
        r"report\.json",
    ),
    "checksums that are none": (
        lambda folder: _edit_plan(folder, lambda fields: fields.__setitem__("files", {"model.onnx": 3})),
        "model.onnx",
    ),
}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", STRANGE)
def test_force_replaces_only_what_is_ours_by_content(kind: str, cut: Path) -> None:
    check_target(cut, force=True)
    spoil, words = STRANGE[kind]
    spoil(cut)
    before = {path.name: path.read_bytes() for path in cut.iterdir()}
    with pytest.raises(OutputError, match=words):
        check_target(cut, force=True)
    assert {path.name: path.read_bytes() for path in cut.iterdir()} == before


def test_a_file_that_is_gone_is_nothing_to_lose(cut: Path) -> None:
    (cut / "model.onnx").unlink()
    check_target(cut, force=True)


def test_a_result_of_an_earlier_version_is_judged_by_its_weights_and_its_report(cut: Path) -> None:
    """Its plan tells of tensors, and of no files."""
    _edit_plan(cut, lambda fields: fields.pop("files"))
    check_target(cut, force=True)
    _flip(cut / "model.safetensors")
    with pytest.raises(OutputError, match="not the one of its plan"):
        check_target(cut, force=True)
    _flip(cut / "model.safetensors")
    (cut / "report.json").write_text('{"what": "my travel report"}')
    with pytest.raises(OutputError, match=r"report\.json"):
        check_target(cut, force=True)
    (cut / "report.json").unlink()
    with pytest.raises(OutputError, match=r"report\.json"):
        check_target(cut, force=True)


def test_a_file_that_we_write_later_belongs_to_the_result(cut: Path) -> None:
    with staged_file(cut / "model.onnx") as file:
        file.write_bytes(b"another graph")
    check_target(cut, force=True)
    (cut / "model.onnx").write_bytes(b"mine")
    with staged_file(cut / "model.int8.onnx") as file:
        file.write_bytes(b"a third graph")
    with pytest.raises(OutputError, match=r"model\.onnx"):
        check_target(cut, force=True)


def test_a_draft_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "result") as one:
        with staged_folder(tmp_path / "result") as other:
            _write(other, "first")
        assert one.is_dir()
        (tmp_path / "result").rename(tmp_path / "moved")
        _write(one, "second")
    assert (_is(tmp_path / "result"), _is(tmp_path / "moved")) == ("second", "first")
    assert _names(tmp_path) == ["moved", "result"]


@pytest.mark.parametrize("name", [".result.new-abcdefgh", "result.old-20260101"])
def test_a_strangers_folder_that_is_named_like_ours_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "report.md").write_text("mine")
    check_target(tmp_path / "result")
    assert (tmp_path / name / "report.md").read_text() == "mine"


def test_a_copy_that_was_put_aside_by_hand_stays_there(result: Path) -> None:
    aside = result.with_name("result.old-20260101")
    result.rename(aside)
    check_target(result)
    assert not result.exists()
    with staged_folder(result) as folder:
        _write(folder, "new")
    assert (_is(result), _is(aside)) == ("new", "old")
