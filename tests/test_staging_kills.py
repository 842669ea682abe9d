"""Kills at every rename and removal of the swap: whole under its name, after the next run at the latest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from structprune.checkpoint import PLAN, check_target, staged_folder, swapping
from structprune.errors import OutputError
from structprune.sources.plan_file import read_plan
from tests.results import small_plan

ROOT = Path(__file__).parents[1]

# What changes names or takes them away; each call is a moment before which, and after which, a kill may come.
KILLED = """
import json, os, pathlib, sys
from structprune.checkpoint import staged_folder, swapping
from tests.results import small_plan

here, exchanging, wanted = pathlib.Path(sys.argv[1]), sys.argv[2] == "exchange", ("old", "new")

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

def replaced(target, step):
    calls = [0]
    for place, name in ((os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"),
                        (swapping, "exchanged")):
        setattr(place, name, watched(getattr(place, name), step, calls))
    with staged_folder(target, force=True) as folder:
        write(folder, "new")

if not exchanging:
    swapping.exchanged = lambda *_: False
for step in range(1, 100):
    target = here / str(step) / "result"
    with staged_folder(target) as folder:
        write(folder, "old")
    if os.fork() == 0:
        replaced(target, step)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.wait()[1]) == 0:
        print(step)
        break
"""


def name_of(folder: Path) -> str:
    """The name of what a whole folder holds."""
    name = read_plan(folder).name
    assert (folder / "report.md").read_text() == name
    assert sorted(path.name for path in folder.iterdir()) == [PLAN, "report.md"]
    return name


@pytest.fixture(scope="module", params=["exchange", "two renames"])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    here = tmp_path_factory.mktemp("killed")
    if request.param == "exchange":
        for name in ("one", "other"):
            (here / name).mkdir()
        if not swapping.exchanged(here / "one", here / "other"):
            pytest.skip("names can't be exchanged here")
        for name in ("one", "other"):
            (here / name).rmdir()
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(here), request.param]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    # Folders for drafts and asides, their marks, names given, files removed: ten moments and more.
    assert int(ran.stdout) > 10
    return request.param, here


def test_a_kill_leaves_a_whole_folder_under_its_name_after_the_next_run(killed: tuple[str, Path]) -> None:
    how, here = killed
    for place in sorted(here.iterdir()):
        target = place / "result"
        if how == "exchange":
            assert name_of(target) in ("old", "new")
        with pytest.raises(OutputError, match="exists"):
            check_target(target)  # a run that is refused repairs as well
        assert name_of(target) in ("old", "new")
        assert [path.name for path in place.iterdir()] == ["result"]
    for place in here.iterdir():
        with staged_folder(place / "result", force=True) as folder:
            (folder / PLAN).write_text(small_plan("newer"))
            (folder / "report.md").write_text("newer")
        assert name_of(place / "result") == "newer"
        assert [path.name for path in place.iterdir()] == ["result"]
