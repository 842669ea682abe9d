from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from structprune.errors import UsageError
from structprune.schedules import exponential, one_shot


@pytest.mark.parametrize("remove", [0.0, 0.3, 0.89, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_exponential_keeps_the_same_share_of_the_survivors_in_every_step(remove: float, steps: int) -> None:
    fractions = [0.0, *exponential(remove, steps)]
    shares = [(1 - after) / (1 - before) for before, after in itertools.pairwise(fractions)]
    assert len(shares) == steps
    assert shares == pytest.approx([(1 - remove) ** (1 / steps)] * steps)
    assert fractions[-1] == remove  # to the last bit


@pytest.mark.parametrize("remove", [0.0, 0.1, 0.89])
def test_one_step_is_one_shot(remove: float) -> None:
    assert list(exponential(remove, 1)) == list(one_shot(remove)) == [remove]


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(steps: int) -> None:
    with pytest.raises(UsageError, match="at least one"):
        list(exponential(0.5, steps))


def test_schedules_need_no_torch() -> None:
    code = "import sys, structprune.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
