"""The search with made-up values and times: no network, no clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structprune.limits.bisection import Search, Seen, Try, first, knotted, least, least_near, meet

HIGH = 1000

# ---- counted


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_first_is_the_first(threshold: int, low: int, width: int) -> None:
    high = low + width
    holds = [depth for depth in range(low, high + 1) if depth >= threshold] or [high]
    assert first(lambda depth: depth >= threshold, low, high) == holds[0]


@given(st.integers(0, 60), st.integers(0, 30), st.integers(0, 60))
def test_least_and_least_near_agree_with_trying_all(threshold: int, low: int, near: int) -> None:
    def kept(depth: int) -> bool:
        return depth >= threshold

    expected = next((depth for depth in range(low, 51) if kept(depth)), None)
    assert least(kept, low, 50) == expected
    assert least_near(kept, near, low, 50) == expected


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 60))
def test_values_that_fall_only_nearly(noise: list[int], bound: int) -> None:
    """Values that are off a falling line by 5 at most: looking 10 back finds the least of all."""
    values = [len(noise) - i + extra for i, extra in enumerate(noise)]
    values[-1] = min(values)
    expected = next((i for i, value in enumerate(values) if value <= bound), None)
    assert least(lambda i: values[i] <= bound, 0, len(values) - 1, back=10) == expected


def test_few_looks_near_a_good_guess() -> None:
    looks: list[int] = []

    def kept(depth: int) -> bool:
        looks.append(depth)
        return depth >= 700

    assert least_near(kept, 697, 0, HIGH) == 700
    assert len(looks) <= 6


def test_knots_are_called_once_and_drawn_between() -> None:
    called: list[int] = []

    def falling(depth: int) -> float:
        called.append(depth)
        return work(depth)

    between = knotted(falling, HIGH, 32)
    drawn = [between(depth) for depth in range(HIGH + 1)]
    assert len(called) == len(set(called)) <= 34
    assert all(drawn[depth] == pytest.approx(work(depth)) for depth in called)
    assert drawn == sorted(drawn, reverse=True)
    assert all(drawn[depth] == pytest.approx(work(depth), rel=0.05) for depth in range(800))
    assert knotted(lambda depth: 7.0, 0)(0) == pytest.approx(7.0)


# ---- measured


def work(depth: int) -> float:
    """Multiply-adds that are left: all but 2 % go."""
    return 1e9 * (1 - 0.98 * depth / HIGH) ** 2


Looks = list[tuple[int, bool]]


def searched(excess: Callable[[int, bool], float], **options: object) -> tuple[Try | None, Seen, Looks]:
    looks: Looks = []

    def noted(depth: int, sure: bool) -> float:
        looks.append((depth, sure))
        return excess(depth, sure)

    found, seen = meet(Search(noted, work, **{"low": 0, "high": HIGH, **options}))  # type: ignore[arg-type]
    return found, seen, looks


@pytest.mark.parametrize("exponent", [0.4, 0.7, 1.0, 1.3])
@pytest.mark.parametrize("asked", [1.5, 4.0, 10.0])
def test_time_that_follows_a_power_of_the_work(exponent: float, asked: float) -> None:
    found, _, looks = searched(lambda depth, _: asked * (work(depth) / work(0)) ** exponent)
    assert found is not None
    assert found.sure
    assert 0.98 <= found.excess <= 1.02
    assert len(looks) <= 10
    assert looks[-1] == (found.depth, True)


@pytest.mark.parametrize("seed", range(20))
def test_noise_of_a_percent(seed: int) -> None:
    draw = random.Random(seed)

    def truth(depth: int) -> float:
        return 4.0 * (0.08 + 0.92 * work(depth) / work(0))

    def excess(depth: int, sure: bool) -> float:
        return truth(depth) * draw.gauss(1, 0.004 if sure else 0.01)

    found, _, looks = searched(excess)
    assert found is not None
    assert truth(found.depth) == pytest.approx(1, abs=0.04)
    assert len(looks) <= 18


@pytest.mark.parametrize("step", [16, 80, 300])
def test_steps_end_at_the_least_cut_that_keeps_it(step: int) -> None:
    def settle(depth: int) -> int:
        return depth // step * step

    def excess(depth: int, _: bool) -> float:
        assert depth == settle(depth)  # nothing is measured twice under two names
        return float(3.0 * (work(depth) / work(0)) ** 0.8)

    found, _, _ = searched(excess, settle=settle)
    assert found is not None
    fast_enough = [d for d in range(0, HIGH + 1, step) if excess(d, True) <= 1.02]
    close = [d for d in fast_enough if excess(d, True) >= 0.98]
    assert found.depth in (close or fast_enough[:1])


def test_widths_off_the_blocks_are_not_settled_on_where_they_are_slow() -> None:
    """Every odd depth takes twice as long."""
    found, _, _ = searched(lambda depth, _: (1 + depth % 2) * 3.0 * work(depth) / work(0))
    assert found is not None
    assert found.excess <= 1.02


def test_out_of_reach_ends_at_the_deepest() -> None:
    found, seen, looks = searched(lambda depth, _: 1000.0 * (work(depth) / work(0)) ** 0.8)
    assert found is None
    assert looks[-1] == (HIGH, True)
    assert min(seen.values(), key=lambda tried: tried.excess).depth == HIGH
    assert len(looks) <= 14


def test_what_costs_a_fixed_time_is_out_of_reach() -> None:
    found, _, looks = searched(lambda depth, _: 1.5 + work(depth) / work(0))
    assert found is None
    assert len(looks) <= 14


def test_nothing_is_cut_where_it_is_fast_enough_already() -> None:
    found, _, looks = searched(lambda depth, _: 0.5, low=120)
    assert found == Try(120, 0.5, True)
    assert looks == [(120, False), (120, True)]


def test_a_longer_look_overrules_a_short_one() -> None:
    """Short looks flatter by 5 %."""
    found, _, _ = searched(lambda depth, sure: (1 if sure else 0.95) * 4.0 * work(depth) / work(0))
    assert found is not None
    assert found.sure
    assert found.excess <= 1.02


@given(
    st.lists(st.floats(0.3, 3.0), min_size=1, max_size=40),
    st.integers(1, 7),
    st.floats(0.0, 0.2),
    st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=300)
def test_whatever_the_times_it_ends_and_what_it_settles_on_is_fast(
    times: list[float], step: int, noise: float, seed: int
) -> None:
    draw = random.Random(seed)
    high = len(times) - 1

    def settle(depth: int) -> int:
        return depth // step * step

    def excess(depth: int, _: bool) -> float:
        return times[depth] * draw.uniform(1 - noise, 1 + noise)

    found, seen = meet(Search(excess, work, 0, high, settle, most=8))
    assert len(seen) <= 9
    if found is not None:
        assert found.sure
        assert found.excess <= 1.02
    else:
        assert settle(high) in seen
