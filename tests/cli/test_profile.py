"""Device profiles through the shell: made, shown, carried, and chosen by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from structprune.hardware.profile import from_json, this_machine, to_json
from tests.cli.command import Command, Finished, environment
from tests.cli.networks import QUICK
from tests.device_profiles import ELSEWHERE, made_up

TINY = ("compress", "tiny:network", "--input-size", 3, 8, 8, "--nodes", 0.4)
AUTO = (*TINY, "--align", "auto")

QUICKLY = """
from exporters.profiling import probe
from structprune.cli import main
probe.points = lambda kind: [(64, width, 14) for width in (12, 16, 17, 24, 32, 48, 64)]
main()
"""
"""The command line with a probe that takes a moment."""


def quickly(here: Path, *arguments: object) -> Finished:
    """Run the command line in a process of its own, with few points to measure."""
    done = subprocess.run(
        [sys.executable, "-c", QUICKLY, *map(str, arguments)],
        cwd=here,
        env={**environment(), "XDG_CACHE_HOME": str(here / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def carried(here: Path) -> Path:
    """A profile of another processor in the working folder."""
    path = here / "elsewhere.json"
    path.write_text(to_json(made_up()))
    return path


def test_a_profile_of_one_process_is_used_in_another(
    here: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quickly(here, "profile", "-o", "mine.json", "--name", "my board").done()
    assert "Microseconds of a layer by its width" in made.out
    assert "What follows" in made.out
    assert "Written to mine.json" in made.out
    profile = from_json((here / "mine.json").read_text())
    assert (profile.name, profile.machine) == ("my board", this_machine())
    chosen = cli(*AUTO, "--profile", "mine.json", *QUICK, "--json").done().document
    assert any(note.startswith(f"widths chosen by the profile {profile}") for note in chosen["notes"])
    assert not any("another processor" in note for note in chosen["notes"])
    # Without a file it is the one that was kept.
    assert [path.suffix for path in (here / "cache").rglob("*") if path.is_file()] == [".json"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    cached = cli(*AUTO, *QUICK, "--json", "-o", "cached").done()
    assert "probing" not in cached.err
    assert cached.document["widths"] == chosen["widths"]


def test_another_processors_profile_chooses(cli: Command, carried: Path, here: Path) -> None:
    options = ("--profile", carried.name, "--score", "magnitude", "--no-measure")
    document = cli(*AUTO, *options, "--json").done().document
    assert document["nodes"]["after"] == 12
    assert all(proof["passed"] for proof in document["proofs"])
    (note,) = [note for note in document["notes"] if "widths chosen" in note]
    assert str(ELSEWHERE) in note
    assert f"another processor than this one ({this_machine()})" in note
    shown = cli(*AUTO, *options, "--no-export", "-o", "again").done()
    assert "Note: widths chosen by the profile made-up" in shown.out
    assert "modelled time" in (here / "again" / "report.md").read_text()
    assert json.loads((here / "again" / "plan.json").read_text())["align"] == 1


def test_another_processors_profile_does_not_measure(cli: Command, carried: Path, here: Path) -> None:
    refused = cli("measure", "tiny:network", "--input-size", 3, 8, 8, "--profile", carried.name)
    refused.refused(6, str(ELSEWHERE), str(this_machine()), "--align auto")
    own = here / "own.json"
    own.write_text(to_json(made_up(this_machine())))
    options = ("--input-size", 3, 8, 8, "--measure-batch", 1, "--energy-seconds", 0.1, "--json")
    measured = cli("measure", "tiny:network", *options, "--profile", own.name).done().document
    assert measured["networks"][0]["measurements"]


def test_a_profile_is_shown(cli: Command, carried: Path) -> None:
    shown = cli("profile", carried.name).done()
    assert "made-up" in shown.out
    assert "Another processor than this one" in shown.out
    assert cli("profile", carried.name, "--json").done().document["name"] == "made-up"


def test_what_is_no_profile_is_refused(cli: Command, here: Path) -> None:
    (here / "broken.json").write_text("{")
    (here / "strange.json").write_text(json.dumps({"schema": 1, "name": "x"}))
    for name in ("broken.json", "strange.json", "none.json"):
        cli(*AUTO, "--profile", name).refused(1, name, "is no device profile", "structprune profile -o")
        cli("profile", name).refused(1, name)
    assert sorted(path.name for path in here.iterdir()) == ["broken.json", "strange.json", "tiny.py"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--align", "wide"), ("--align wide", "1 or more, or auto")),
        (("--align", "1.5"), ("--align 1.5", "auto")),
        (("--align", "-4"), ("--align -4", "1 or more")),
        (("--align", "4", "--profile", "x.json"), ("--profile", "--align auto")),
        (("--profile", "x.json"), ("--profile", "--align auto")),
    ],
    ids=str,
)
def test_misuse(options: tuple[str, ...], words: tuple[str, ...], cli: Command) -> None:
    cli(*TINY, *options).refused(2, *words)


def test_misuse_of_the_verb(cli: Command, carried: Path) -> None:
    cli("profile", carried.name, "-o", "other.json").refused(2, "give one of them")
    cli("profile", "-o", carried.name).refused(1, "exists", "--force")
    cli("profile", "--precision", "int4").refused(2, "'int4'", "float32, float16")
    cli("profile", "--threads", 0).refused(2, "--threads 0")
    cli("profile", "--device", "tpu").refused(2, "'tpu'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_without_cuda_it_says_so(cli: Command) -> None:
    cli("profile", "--device", "cuda").refused(6, "cuda")
