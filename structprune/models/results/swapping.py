"""One folder in the place of another, in one step where the system can.

Linux exchanges two names at once. Elsewhere the older folder is renamed into a marked one beside it first;
a kill between the two renames leaves the name empty, and the next run to it puts the older folder back.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from structprune.models.results.drafts import MARKER, discard, fresh, is_marked, leftovers, names_in, sweep
from structprune.models.results.plan_file import PLAN
from structprune.models.results.sealing import OUR_FILES, foreign

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def put_in_place(stage: Path, target: Path) -> None:
    """Give ``stage`` the name of an older result of ours, which is removed afterwards.

    Raises:
        OSError: it can't be; the older one is where it was.
    """
    if exchanged(stage, target):
        remove_result(stage)
    else:
        _by_two_renames(stage, target)


def exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system can't."""
    function = _renameat2()
    if function is None:
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return function(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


def _renameat2() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None), "renameat2", None)  # older C libraries have none
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function  # type: ignore[no-any-return]


def _by_two_renames(stage: Path, target: Path) -> None:
    aside = fresh(target, "old")
    try:
        target.rename(aside.folder / target.name)
        stage.rename(target)
    finally:
        settle(aside.folder, target)
        aside.release()


def settle(aside: Path, target: Path) -> None:
    """Put the folder that waits in ``aside`` back where nothing has its name, or else remove it.

    It gets another name before its files go, so that what still has the target's name is whole.
    """
    waiting, going = aside / target.name, aside / f"{target.name}.removed"
    if waiting.is_dir() and not os.path.lexists(target):
        waiting.rename(target)
    elif waiting.is_dir() and foreign(waiting) is None:
        waiting.rename(going)
    remove_result(going)
    if names_in(aside) <= {MARKER}:
        discard(aside)


def repair(target: Path) -> None:
    """Put back, or remove, what killed runs left beside ``target``; what can't be is left alone."""
    for aside in leftovers(target, "old"):
        with suppress(OSError):
            if is_marked(aside) or not names_in(aside):
                settle(aside, target)
    sweep(target)
    # Folders whose names were exchanged already, and drafts that were whole.
    for folder in leftovers(target):
        with suppress(OSError):
            if foreign(folder) is None:
                remove_result(folder)


def remove_result(folder: Path) -> None:
    """Remove a result of ours: its files, not what else came in, and the plan that tells of them last."""
    with suppress(OSError):
        for name in sorted(OUR_FILES, key=lambda name: name == PLAN):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
