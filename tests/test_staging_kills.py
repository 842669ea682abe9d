"""Kills at every rename and removal of the swap: whole under its name, after the next run at the latest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from structprune.errors import OutputError
from structprune.models.results import PLAN, check_target, staged_folder, swapping
from structprune.models.results.drafts import sweep
from structprune.models.results.plan_file import read_plan
from structprune.training import sealed_file
from tests.results import small_plan

ROOT = Path(__file__).parents[1]

# What changes names or takes them away; each call is a moment before which, and after which, a kill may come.
KILLED = """
import os, pathlib, sys
from structprune.models.results import staged_folder, swapping
from structprune.training import sealed_file
from tests.results import small_plan

here = pathlib.Path(sys.argv[1])
kept = {name: getattr(os, name) for name in ("rename", "replace", "unlink", "rmdir", "mkdir")}

def write(folder, name):
    (folder / "plan.json").write_text(small_plan(name))
    (folder / "report.md").write_text(name)

def watched(function, step, calls):
    def call(*args, **kwargs):
        calls[0] += 1
        if calls[0] == step:
            os._exit(9)
        return function(*args, **kwargs)
    return call

def folder(target, name):
    with staged_folder(target, force=True) as stage:
        write(stage, name)

def checkpoint(target, name):
    target.parent.mkdir(parents=True, exist_ok=True)
    sealed_file.write(target.with_name("result.training.pt"), {"schema": 2, "value": name})

def killed(make, target, step):
    calls = [0]
    for name, function in kept.items():
        setattr(os, name, watched(function, step, calls))
    swapping.exchanged = watched(swapping.exchanged, step, calls)
    make(target, "new")

def every_step(how, make):
    for step in range(1, 100):
        target = here / how / str(step) / "result"
        make(target, "old")
        if os.fork() == 0:
            killed(make, target, step)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.wait()[1]) == 0:
            print(how.replace(" ", "_"), step)
            return

every_step("exchange", folder)
every_step("checkpoint", checkpoint)
swapping.exchanged = lambda *_: False
every_step("two renames", folder)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(here)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    # Drafts made, marks taken, names given, files and folders removed: the moments of each.
    steps = dict(line.split() for line in ran.stdout.splitlines())
    assert all(int(steps[how]) > least for how, least in LEAST.items()), steps
    return here


LEAST = {"exchange": 8, "two_renames": 12, "checkpoint": 4}


def name_of(folder: Path) -> str:
    """The name of what a whole folder holds."""
    name = read_plan(folder).name
    assert (folder / "report.md").read_text() == name
    assert sorted(path.name for path in folder.iterdir()) == [PLAN, "report.md"]
    return name


@pytest.mark.parametrize("how", ["exchange", "two renames"])
def test_a_kill_leaves_a_whole_folder_under_its_name_after_the_next_run(how: str, killed: Path) -> None:
    for place in sorted((killed / how).iterdir()):
        target = place / "result"
        if how == "exchange" and can_exchange(killed):
            assert name_of(target) in ("old", "new")
        with pytest.raises(OutputError, match="exists"):
            check_target(target)  # a run that is refused repairs as well
        assert name_of(target) in ("old", "new")
        assert [path.name for path in place.iterdir()] == ["result"]
        with staged_folder(target, force=True) as folder:
            (folder / PLAN).write_text(small_plan("newer"))
            (folder / "report.md").write_text("newer")
        assert name_of(target) == "newer"
        assert [path.name for path in place.iterdir()] == ["result"]


def can_exchange(here: Path) -> bool:
    """Whether names can be exchanged at once in a folder."""
    one, other = here / "one", here / "other"
    for folder in (one, other):
        folder.mkdir(exist_ok=True)
    return swapping.exchanged(one, other)


def test_a_kill_leaves_a_whole_checkpoint(killed: Path) -> None:
    for place in sorted((killed / "checkpoint").iterdir()):
        path = place / "result.training.pt"
        assert sealed_file.read(path)["value"] in ("old", "new")
        sweep(path)
        assert [each.name for each in place.iterdir()] == [path.name]
