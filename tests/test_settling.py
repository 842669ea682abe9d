"""How many samples are taken: against scores that are laid down, whose halves agree when they are told to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from structprune.scoring.sampling import Batch, Sampling
from structprune.scoring.scores import Scores
from structprune.scoring.settling import AGREED, LEAST, MOST, STEP, settled, spearman


def sampling(samples: int, size: int = 4, seed: int = 0) -> Sampling:
    numbers = torch.arange(samples)
    batches = tuple(Batch((numbers[i : i + size],), numbers[i : i + size]) for i in range(0, samples, size))
    return Sampling(batches, lambda output, target: output, accumulate="abs", seed=seed)


class Laid:
    """Scores a part by its number of samples in ``x`` and by noise until so many samples were seen."""

    def __init__(self, noisy_until: int) -> None:
        self.parts: list[Sampling] = []
        self.noisy_until = noisy_until

    def __call__(self, part: Sampling) -> list[Scores]:
        self.parts.append(part)
        seen = sum(one.samples for one in self.parts)
        generator = torch.Generator().manual_seed(len(self.parts))
        noise = torch.randn(40, generator=generator) if seen <= self.noisy_until else torch.zeros(40)
        sums = {"x": part.samples * torch.arange(1.0, 41.0) + 1e6 * noise * (seen <= self.noisy_until)}
        if seen > self.noisy_until:
            sums = {"x": 1e9 * torch.arange(1.0, 41.0)}
        return [Scores({"x": sums["x"].abs()}, "laid", sums=sums, draws=2)]

    def numbers(self) -> Tensor:
        return torch.cat([batch.target for part in self.parts for batch in part.batches])


def first(found: list[Scores]) -> Scores:
    return found[0]


def test_few_samples_are_scored_as_they_are() -> None:
    score, given_to_it = Laid(0), sampling(LEAST)
    (found,) = settled(given_to_it, score, first)
    assert score.parts == [given_to_it]
    assert found.taken is None


@pytest.mark.parametrize(
    ("offered", "noisy_until", "expected"),
    [
        (1000, 0, LEAST),
        (1000, LEAST, LEAST + STEP),
        (1000, LEAST + STEP, LEAST + 2 * STEP),
        (600, 10**6, 600),
        (10_000, 10**6, MOST),
    ],
)
def test_more_are_taken_until_two_halves_agree(offered: int, noisy_until: int, expected: int) -> None:
    score = Laid(noisy_until)
    (found,) = settled(sampling(offered), score, first)
    assert found.taken is not None
    assert (found.taken.samples, found.taken.offered) == (expected, offered)
    assert (found.taken.agreement >= AGREED) == (noisy_until < 10**6)
    assert sum(part.samples for part in score.parts) == expected
    assert found.draws == 2 * len(score.parts)


def test_the_scores_are_those_of_all_that_were_taken() -> None:
    """Signs are kept until all is added: what one half has as +3 and the other as -1 counts 2."""
    halves = iter([torch.tensor([3.0, 5.0]), torch.tensor([-1.0, 6.0])])

    def score(part: Sampling) -> list[Scores]:
        sums = {"x": next(halves)}
        return [Scores({"x": sums["x"].abs()}, "laid", sums=sums)]

    (found,) = settled(sampling(300), score, first)
    assert found.values["x"].tolist() == [2.0, 11.0]


def test_parts_share_no_sample_and_no_seed_and_are_not_the_first_of_sorted_data() -> None:
    score = Laid(10**6)
    settled(sampling(1000), score, first)
    numbers = score.numbers()
    assert sorted(numbers.tolist()) == list(range(1000))
    assert len({part.seed for part in score.parts}) == len(score.parts)
    assert float(numbers[:LEAST].float().mean()) == pytest.approx(500, abs=60)
    sizes = [part.samples for part in score.parts]
    assert sizes[:4] == [LEAST // 2, LEAST // 2, STEP // 2, STEP // 2]
    again = Laid(10**6)
    settled(sampling(1000), again, first)
    assert torch.equal(again.numbers(), numbers)


def test_draws_that_were_asked_for_are_made_by_the_first_two_halves() -> None:
    score = Laid(10**6)
    settled(replace(sampling(700), draws=7), score, first)
    assert [part.draws for part in score.parts] == [4, 4, *[1] * (len(score.parts) - 2)]


rows = st.lists(st.integers(-5, 5), min_size=2, max_size=12)


@given(rows.flatmap(lambda row: st.tuples(st.just(row), st.permutations(row))))
@settings(max_examples=60, deadline=None)
def test_agreement_is_spearmans_correlation(pair: tuple[list[int], list[int]]) -> None:
    a, b = ({"x": torch.tensor(x[:1]).float(), "y": torch.tensor(x[1:]).float()} for x in pair)
    if len(set(pair[0])) > 1:
        assert spearman(a, b) == pytest.approx(spearmanr(*pair).statistic, abs=1e-5)


@pytest.mark.parametrize(
    ("noisy_until", "offered", "words"),
    [
        (0, 512, ("256 of the 512 samples", "has settled")),
        (10**6, 512, ("all 512 samples", "there are no more", "has not settled")),
        (10**6, 5000, ("2,048 of the 5,000 samples", "no more are taken")),
    ],
)
def test_what_was_taken_is_said(noisy_until: int, offered: int, words: tuple[str, ...]) -> None:
    (found,) = settled(sampling(offered), Laid(noisy_until), first)
    assert all(word in str(found.taken) for word in words)
