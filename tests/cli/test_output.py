"""Where results go: nothing is overwritten unasked, and nothing half-written stays."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from structprune.cli.output_file import check_file, staged_file
from structprune.errors import OutputError
from tests.cli.command import Command, contents, in_own_process
from tests.cli.networks import QUICK

COMPRESS = ("compress", "structprune:mlp", "--nodes", 0.5, *QUICK)


def test_an_existing_folder(cli: Command, here: Path) -> None:
    (here / "mlp-nodes0.5").mkdir()
    before = contents(here)
    cli(*COMPRESS).refused(1, "mlp-nodes0.5", "exists", "--force")
    assert contents(here) == before


def test_force_replaces_a_result_of_ours(result: Path, cli: Command, here: Path) -> None:
    first = contents(result)
    cli(*COMPRESS, "-o", "result", "--seed", 1).refused(1, "result", "exists")
    assert contents(result) == first
    cli(*COMPRESS, "-o", "result", "--seed", 1, "--force").done()
    second = contents(result)
    assert second.keys() == first.keys()
    assert second["model.safetensors"] != first["model.safetensors"]
    assert {path.name for path in here.iterdir()} == {"result", "tiny.py"}


def test_force_leaves_a_folder_with_a_strangers_file(result: Path, cli: Command, here: Path) -> None:
    (result / "thesis.tex").write_text("years of work")
    before = contents(here)
    cli(*COMPRESS, "-o", "result", "--force").refused(1, "thesis.tex")
    assert contents(here) == before


def test_force_leaves_a_folder_that_is_no_result(cli: Command, here: Path) -> None:
    (here / "empty").mkdir()
    before = contents(here)
    cli(*COMPRESS, "-o", "empty", "--force").refused(1, "empty", "plan.json")
    assert contents(here) == before


def test_force_leaves_a_folder_of_ones_own_that_is_named_like_a_result(cli: Command, here: Path) -> None:
    (here / "trip").mkdir()
    (here / "trip" / "plan.json").write_text('{"what": "my travel plan"}')
    (here / "trip" / "model.onnx").write_bytes(b"mine")
    (here / "trip" / "report.md").write_text("# Lisbon")
    before = contents(here)
    cli(*COMPRESS, "-o", "trip", "--force").refused(1, "trip", "plan.json")
    assert contents(here) == before


def test_force_leaves_a_result_with_a_file_that_was_changed(result: Path, cli: Command, here: Path) -> None:
    (result / "report.md").write_text("my own report")
    before = contents(here)
    cli(*COMPRESS, "-o", "result", "--force").refused(1, "result", "report.md")
    assert contents(here) == before


def test_a_report_with_a_proof_that_failed_ends_in_4(result: Path, cli: Command) -> None:
    cli("report", "result").done()
    path = result / "report.json"
    path.write_text(path.read_text().replace('"passed": true', '"passed": false', 1))
    shown = cli("report", "result")
    assert shown.code == 4
    assert "Proofs" in shown.out
    assert "report.json says that the proof closed_gates failed" in shown.err


@pytest.mark.parametrize("target", [".", "/"])
def test_force_leaves_the_current_and_the_root_folder(target: str, cli: Command, here: Path) -> None:
    before = contents(here)
    cli(*COMPRESS, "-o", target, "--force").refused(1, "never replaced")
    assert contents(here) == before


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_file_in_the_place_of_the_folder(force: tuple[str, ...], cli: Command, here: Path) -> None:
    (here / "result").write_text("a file")
    before = contents(here)
    cli(*COMPRESS, "-o", "result", *force).refused(1, "result", "a file")
    assert contents(here) == before


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc here")
@pytest.mark.parametrize(
    "command",
    [
        (*COMPRESS, "-o", "/proc/result"),
        ("score", "structprune:mlp", "-o", "/proc/scores.json"),
        ("export", "structprune:mlp", "-o", "/proc/network.onnx"),
    ],
    ids=lambda command: str(command[0]),
)
def test_a_place_that_cannot_be_written(command: tuple[str, ...], cli: Command, here: Path) -> None:
    before = contents(here)
    sentence = cli(*command).refused(1, "/proc", "can't be written")
    assert str(command[-1]) in sentence
    assert contents(here) == before


@pytest.mark.parametrize(("verb", "file"), [("score", "out.json"), ("export", "out.onnx")])
def test_a_single_file(verb: str, file: str, cli: Command, here: Path) -> None:
    run = (verb, "structprune:mlp", *(("--score", "magnitude") if verb == "score" else ()))
    cli(*run, "-o", file).done()
    first = contents(here)
    cli(*run, "-o", file, "--seed", 1).refused(1, file, "exists", "--force")
    cli(*run, "-o", "nowhere/" + file).refused(1, file, "no folder nowhere")
    cli(*run, "-o", ".").refused(1, "folder")
    assert contents(here) == first
    cli(*run, "-o", file, "--seed", 1, "--force").done()
    second = contents(here)
    assert second.keys() == first.keys()
    assert second[file] != first[file]
    assert (here / file).stat().st_mode == (here / "tiny.py").stat().st_mode


def _files_up_to(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


WIDE = ("compress", "structprune:mlp", "--nodes", 0.1, "--score", "magnitude", "--no-measure")


@pytest.mark.parametrize("size", [0, 100_000])
def test_a_disk_that_is_full(size: int, here: Path) -> None:
    before = contents(here)
    finished = in_own_process(here, *WIDE, preexec_fn=_files_up_to(size))
    finished.refused(1, "mlp-nodes0.1", "can't be written")
    assert contents(here) == before


def test_a_disk_that_is_full_when_the_weights_are_written(cli: Command, here: Path) -> None:
    cli(*WIDE, "-o", "whole").done()
    weights, onnx = ((here / "whole" / name).stat().st_size for name in ("model.safetensors", "model.onnx"))
    assert weights < onnx
    before = contents(here)
    finished = in_own_process(here, *WIDE, preexec_fn=_files_up_to(weights))
    finished.refused(1, "model.onnx", "can't be written")
    assert contents(here) == before


@pytest.mark.parametrize("verb", ["score", "export"])
def test_a_disk_that_is_full_for_a_single_file(verb: str, here: Path) -> None:
    (here / "older").write_text("kept")
    before = contents(here)
    command = (verb, "structprune:mlp", *(("--score", "magnitude") if verb == "score" else ()))
    finished = in_own_process(here, *command, "-o", "older", "--force", preexec_fn=_files_up_to(1_000))
    finished.refused(1, "older", "can't be written")
    assert contents(here) == before


def test_a_second_file_replaces_none_that_is_anothers(tmp_path: Path) -> None:
    (tmp_path / "model.onnx.data").write_text("mine")

    def write_both() -> None:
        with staged_file(tmp_path / "model.onnx") as draft:
            draft.write_text("graph")
            draft.with_name("model.onnx.data").write_text("weights")

    with pytest.raises(OutputError, match=r"model\.onnx\.data exists"):
        write_both()
    assert contents(tmp_path).keys() == {"model.onnx.data"}
    (tmp_path / "model.onnx.data").unlink()
    write_both()
    write_both()
    assert contents(tmp_path).keys() == {"model.onnx", "model.onnx.data"}


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="regular"):
        check_file(tmp_path / "pipe", force=True)


def test_another_file_that_goes_missing_is_not_laid_on_the_output(tmp_path: Path) -> None:
    def write_half() -> None:
        with staged_file(tmp_path / "model.onnx") as draft:
            draft.write_text("half")
            (tmp_path / "images.npz").read_bytes()

    with pytest.raises(FileNotFoundError, match=r"images\.npz"):
        write_half()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can't be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_file_system(small_disk: Path, cli: Command) -> None:
    (small_disk / "older").write_text("kept")
    before = contents(small_disk)
    cli(*WIDE, "-o", small_disk / "result").refused(1, "result", "no space left")
    assert contents(small_disk) == before
