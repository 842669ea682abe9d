from __future__ import annotations

import numpy as np
import pytest

from structprune.data.splits import hold_out, scoring_sample
from structprune.errors import InputError, UsageError

UNEVEN = np.repeat(np.arange(4), [50, 20, 5, 2])


def counts(labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
    return [int((labels == label).sum()) for label in range(4)]


def test_hold_out_parts_every_class_alike() -> None:
    learn, judge = hold_out(UNEVEN, 0.2, seed=1)
    assert sorted([*learn, *judge]) == list(range(len(UNEVEN)))
    assert counts(UNEVEN[judge]) == [10, 4, 1, 1]
    assert (np.diff(learn) > 0).all()
    assert (np.diff(judge) > 0).all()


def test_hold_out_is_the_same_for_the_same_seed_only() -> None:
    assert all(
        (a == b).all() for a, b in zip(hold_out(UNEVEN, seed=3), hold_out(UNEVEN, seed=3), strict=True)
    )
    assert (hold_out(UNEVEN, seed=3)[1] != hold_out(UNEVEN, seed=4)[1]).any()


def test_hold_out_draws_from_all_of_a_class() -> None:
    drawn = {int(index) for seed in range(200) for index in hold_out(UNEVEN, 0.2, seed)[1]}
    assert drawn == set(range(len(UNEVEN)))


def test_hold_out_keeps_the_only_image_of_a_class() -> None:
    learn, judge = hold_out(np.array([0, 0, 0, 1]), 0.9)
    assert 3 in learn
    assert len(judge) == 2


def test_hold_out_refuses_what_it_cannot_split() -> None:
    with pytest.raises(InputError, match="2 images"):
        hold_out(np.array([0, 1]))
    with pytest.raises(UsageError, match=r"1\.0"):
        hold_out(UNEVEN, 1.0)


@pytest.mark.parametrize(
    ("classes", "each", "expected"),
    [
        (10, 1000, 256),  # 10 a class are fewer than the least
        (50, 100, 500),  # 10 a class
        (1000, 5, 2048),  # 10 a class are more than the most
        (3, 20, 60),  # never more than there are
    ],
)
def test_scoring_sample_has_the_size_of_the_design(classes: int, each: int, expected: int) -> None:
    chosen = scoring_sample(np.repeat(np.arange(classes), each))
    assert len(chosen) == len(set(chosen)) == expected


def test_scoring_sample_is_balanced_in_all_and_in_every_mini_batch() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))
    chosen = labels[scoring_sample(labels, least=160)]
    assert len(chosen) == 160
    for start in range(0, 160, 10):
        assert sorted(chosen[start : start + 10]) == list(range(10))


def test_scoring_sample_fills_in_where_a_class_runs_out() -> None:
    taken = counts(UNEVEN[scoring_sample(UNEVEN, per_class=5, least=30)])
    assert sum(taken) == 30
    assert taken[2:] == [5, 2]
    assert abs(taken[0] - taken[1]) == 1


def test_scoring_sample_is_the_same_for_the_same_seed_only() -> None:
    assert (scoring_sample(UNEVEN, least=40, seed=5) == scoring_sample(UNEVEN, least=40, seed=5)).all()
    assert (scoring_sample(UNEVEN, least=40, seed=5) != scoring_sample(UNEVEN, least=40, seed=6)).any()
