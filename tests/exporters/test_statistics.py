from __future__ import annotations

import statistics

import numpy as np
import pytest

from exporters.probes.statistics import MARGIN, bootstrap_ratio, series, times, verdict
from structprune.report.data import Ratio


def test_series_keeps_the_readings_in_order() -> None:
    taken = series([5.0, 1.0, 3.0, 2.0])
    assert taken.samples == (5.0, 1.0, 3.0, 2.0)
    assert taken.median == 2.5


def test_the_interval_is_that_of_a_loop_over_draws() -> None:
    rng = np.random.default_rng(3)
    dense, pruned = list(rng.normal(10, 1, 11)), list(rng.normal(4, 0.5, 11))
    draws = np.random.default_rng(0)
    ratios = [
        statistics.median(dense[pick] / pruned[pick] for pick in picks)
        for picks in draws.integers(11, size=(500, 11))
    ]
    ratio = bootstrap_ratio(dense, pruned, draws=500, seed=0)
    assert ratio is not None
    assert ratio.value == pytest.approx(statistics.median(d / p for d, p in zip(dense, pruned, strict=True)))
    assert ratio.low == pytest.approx(float(np.quantile(ratios, 0.025)))
    assert ratio.high == pytest.approx(float(np.quantile(ratios, 0.975)))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        ratio = bootstrap_ratio(
            rng.lognormal(1, 0.1, 12).tolist(), rng.lognormal(0, 0.1, 12).tolist(), draws=400
        )
        assert ratio is not None
        held += ratio.low <= np.e <= ratio.high
    assert 0.88 <= held / 200 <= 1.0


def test_what_slows_both_cancels() -> None:
    drift = np.linspace(1, 3, 12)
    ratio = bootstrap_ratio((6 * drift).tolist(), (2 * drift).tolist())
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3, 3, 3))


def test_the_same_seed_gives_the_same_interval() -> None:
    dense, pruned = [3.0, 4.0, 5.0, 7.0], [1.0, 2.0, 2.5, 3.0]
    assert bootstrap_ratio(dense, pruned, seed=1) == bootstrap_ratio(dense, pruned, seed=1)


def drifting(rng: np.random.Generator, times: tuple[float, float], blocks: int) -> list[list[float]]:
    """Play the medians of two networks' blocks on a machine that slows down, speeds up and is disturbed.

    What each network's buffers happen to cost stays the same for the whole run; neighbours come and go for
    some blocks in a row; and now and then a single block is hit.
    """
    placed = rng.normal(1, 0.005, 2)
    taken: list[list[float]] = [[], []]
    neighbour, phase = 0.0, rng.uniform(0, 2 * np.pi)
    for block in range(blocks):
        order = (0, 1) if block % 2 == 0 else (1, 0)
        for turn, network in enumerate(order):
            clock = 2 * block + turn
            neighbour = 0.7 * neighbour + rng.exponential(0.02)
            slow = 1 + 0.15 * np.sin(clock / 8 + phase) + 0.01 * clock + neighbour
            hit = rng.uniform(1.5, 3) if rng.random() < 0.03 else 1.0
            taken[network].append(times[network] * placed[network] * slow * hit * rng.lognormal(0, 0.005))
    return taken


@pytest.mark.parametrize("blocks", [6, 12, 24])
def test_the_same_twice_is_no_difference_and_a_tenth_is_found_while_the_machine_drifts(blocks: int) -> None:
    rng = np.random.default_rng(5)
    runs = 400
    said = {"same": 0, "tenth": 0}
    for _ in range(runs):
        for name, times_ in (("same", (1.0, 1.0)), ("tenth", (1.1, 1.0))):
            ratio = bootstrap_ratio(*drifting(rng, times_, blocks), draws=400)
            said[name] += "no real" not in verdict(ratio, "batch_time")
    assert said["same"] / runs <= 0.05
    assert said["tenth"] / runs >= (0.7 if blocks == 6 else 0.9)


def test_nothing_divided_by_nothing_is_no_ratio() -> None:
    assert bootstrap_ratio([1.0], [0.0]) is None
    assert verdict(None, "disk") == ""


@pytest.mark.parametrize("readings", [([1.0, 2.0], [1.0]), ([], [])])
def test_readings_that_do_not_pair_up_are_refused(readings: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="in pairs"):
        bootstrap_ratio(*readings)


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (Ratio(1.3, 1 + MARGIN + 0.01, 1.5), "1.30x faster (1.04-1.50)"),
        (Ratio(1.03, 1.02, 1.04), "1.03x, 1.02-1.04: no real speed-up"),
        (Ratio(0.8, 0.75, 0.9), "1.25x slower (1.11-1.33)"),
        (Ratio(0.97, 0.96, 0.98), "0.97x, 0.96-0.98: no real speed-up"),
        (Ratio(151.4, 149.2, 152.0), "151x faster (149-152)"),
    ],
)
def test_verdicts(ratio: Ratio, said: str) -> None:
    assert verdict(ratio, "batch_time") == said


def test_an_exact_ratio_needs_no_margin() -> None:
    assert verdict(Ratio(1.01, 1.01, 1.01), "disk") == "1.01x smaller"
    assert verdict(Ratio(1.0, 1.0, 1.0), "disk") == "1.00x: no saving"


def test_factors_have_three_figures() -> None:
    assert [times(factor) for factor in (1.0, 9.949, 9.96, 99.46, 99.6, 1234.5)] == [
        "1.00",
        "9.95",
        "10.0",
        "99.5",
        "100",
        "1234",
    ]
