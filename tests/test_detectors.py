from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from structprune.errors import InputError, UsageError
from structprune.training.detectors import DETECTORS, Detector, LazyRegime, MaskDistance, PublishedLazyRegime
from structprune.training.detectors.mask_distance import largest_scales
from tests.networks import TinyConvBN, TinyMLP, TinyResidualConcat

MAKERS: dict[str, Callable[[], Detector]] = {
    "lazy_regime": lambda: LazyRegime(0.88),
    "lazy_regime, plain": lambda: LazyRegime(0.88, squared=False),
    "published_lazy_regime": lambda: PublishedLazyRegime(0.5, structured=True),
    "mask_distance": lambda: MaskDistance(0.5, memory=3),
    "mask_distance, normalised": lambda: MaskDistance(0.5, memory=3, normalised=True),
}


def moved(model: nn.Module, seed: int, by: float = 0.1) -> None:
    """One epoch of training, so to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))


def with_scales(*scales: float) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(len(scales))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(scales))
    return layer


def firing(detector: Detector, series: Sequence[float]) -> list[int]:
    """The epochs after which it fires."""
    return [t for t in range(1, len(series) + 1) if detector.fires(series[:t])]


# ---- lazy regime


@pytest.mark.parametrize(
    ("sparsity", "threshold"), [(0.0, 0.5), (0.3, 0.5), (0.88, 0.12), (0.98, 0.02), (0.999, 0.01)]
)
def test_the_threshold_is_what_is_left_within_limits(sparsity: float, threshold: float) -> None:
    assert LazyRegime(sparsity).threshold == pytest.approx(threshold)
    assert LazyRegime(sparsity, tau=0.3).threshold == 0.3


@pytest.mark.parametrize(
    ("series", "epochs"),
    [
        ([2.0, 3.0, 3.3, 3.35], [4]),  # steps relative to the first: 0.5, 0.15, 0.025
        ([2.0, 2.1], [2]),  # as early as epoch 2
        ([2.0, 1.0, 1.1], [3]),  # a way back is a way, the signed difference would fire at 2
        ([2.0, 4.0, 8.0, 16.0], []),
        ([0.0, 0.0, 0.0], []),  # nothing moves: nothing was learned, no reason to cut
        ([2.0, math.nan, math.nan], []),
    ],
)
def test_the_lazy_regime_is_where_steps_get_short(series: list[float], epochs: list[int]) -> None:
    assert firing(LazyRegime(0.88), series) == epochs


def test_the_published_structured_threshold_never_fires_at_0_9_where_ours_does() -> None:
    series = [0.0, 0.4, 0.5, 0.501, 0.501, 0.501]  # at rest from epoch 5 on
    assert firing(PublishedLazyRegime(0.9, structured=True), series) == []
    assert firing(PublishedLazyRegime(0.95, structured=True), series) == []
    assert "never" in PublishedLazyRegime(0.9, structured=True).words
    assert firing(PublishedLazyRegime(0.9, structured=False), series) == [4, 5, 6]
    assert firing(LazyRegime(0.9), [0.3, *series[1:]]) == [4, 5, 6]


def test_the_published_threshold_is_that_of_epoch_2() -> None:
    series = [0.0, 1.0, 1.45, 1.75]
    assert firing(PublishedLazyRegime(0.5, structured=False), series) == [3, 4]  # below 0.5
    assert firing(PublishedLazyRegime(0.5, structured=True), series) == [4]  # below 0.4
    assert firing(PublishedLazyRegime(0.0, structured=True), [0.0, 1.0, 1.89]) == [3]
    assert firing(PublishedLazyRegime(0.5, structured=True), [0.0, 0.0]) == []  # never before epoch 3


@pytest.mark.parametrize("squared", [True, False])
def test_distances_are_those_of_one_long_vector(squared: bool) -> None:
    model = TinyConvBN()
    detector = LazyRegime(0.9, squared=squared)
    state = detector.start(model)
    before_P = nn.utils.parameters_to_vector(model.parameters()).detach().double()
    for epoch in range(3):
        moved(model, epoch)
        state, value = detector.observe(state, model)
        now_P = nn.utils.parameters_to_vector(model.parameters()).detach().double()
        ratio = float((now_P - before_P).norm() / before_P.norm())
        assert value == pytest.approx(ratio**2 if squared else ratio)


def test_frozen_parameters_and_statistics_dont_count_in_ours() -> None:
    model = TinyConvBN()
    model.head.requires_grad_(False)
    detector = LazyRegime(0.9)
    state = detector.start(model)
    with torch.no_grad():
        model.head.weight += 1
        model.bn1.running_mean = torch.ones(4)
    assert detector.observe(state, model)[1] == 0.0


def test_the_published_reference_is_the_first_epochs() -> None:
    model = TinyMLP()
    detector = PublishedLazyRegime(0.5, structured=False)
    state = detector.start(model)
    moved(model, 0)
    state, first = detector.observe(state, model)
    after_first = copy.deepcopy(model)
    moved(model, 1)
    _, second = detector.observe(state, model)
    plain = LazyRegime(0.5, squared=False)
    assert first == 0.0
    assert second == plain.observe(plain.start(after_first), model)[1] > 0


def test_a_network_without_anything_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="initial weights"):
        LazyRegime(0.9).start(TinyMLP().requires_grad_(False))


# ---- mask distance


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.88])
def test_masks_remove_exactly_the_target_even_of_equal_scales(sparsity: float) -> None:
    mask_C = largest_scales(TinyConvBN(), sparsity)
    assert int((~mask_C).sum()) == round(sparsity * 10)
    assert torch.equal(mask_C, mask_C.sort(descending=True).values)  # of equal ones the first stay


def test_the_ranking_is_global_and_of_absolute_values() -> None:
    network = nn.Sequential(with_scales(0.1, -0.9), nn.Conv2d(2, 3, 1), with_scales(0.5, -0.2, 0.8))
    assert largest_scales(network, 0.6).tolist() == [False, True, False, False, True]
    assert largest_scales(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm3d(2)), 0.5).shape == (4,)


def test_the_distance_is_the_largest_to_the_masks_in_memory() -> None:
    detector = MaskDistance(0.5, memory=3)
    epochs = [(4, 3, 2, 1), (4, 3, 1, 2), (4, 1, 3, 2), (4, 1, 3, 2), (4, 1, 3, 2)]
    # Kept:    0 1           0 1           0 2           0 2           0 2
    state = detector.start(with_scales(1, 1, 1, 1))
    series = []
    for scales in epochs:
        state, value = detector.observe(state, with_scales(*scales))
        series.append(value)
    assert series == [1.0, 1.0, 0.5, 0.5, 0.0]
    assert firing(detector, series) == [5]
    assert state["masks_TC"].shape == (3, 4)


def test_the_normalised_distance_is_in_units_of_chance() -> None:
    raw, normalised = MaskDistance(0.75, memory=2), MaskDistance(0.75, memory=2, normalised=True)
    assert (raw.threshold, normalised.threshold) == (0.1, 0.2)
    assert MaskDistance(0.75, tau=0.05, normalised=True).threshold == 0.05
    for detector in (raw, normalised):
        state, _ = detector.observe(detector.start(with_scales(1, 1, 1, 1)), with_scales(4, 3, 2, 1))
        _, value = detector.observe(state, with_scales(3, 4, 2, 1))
        assert value == pytest.approx(0.5 / (2 * 0.75 * 0.25) if detector.normalised else 0.5)


def test_nothing_to_remove_never_differs() -> None:
    detector = MaskDistance(0.0, memory=2, normalised=True)
    state = detector.start(with_scales(1, 2))
    for scales in ((1, 2), (2, 1)):
        state, value = detector.observe(state, with_scales(*scales))
    assert value == 0.0


def test_it_waits_for_its_masks_whatever_the_threshold() -> None:
    assert firing(MaskDistance(0.5, tau=1.0), [1.0] * 6) == [5, 6]
    assert firing(MaskDistance(0.5), [1.0] * 4 + [0.1, 0.11]) == [5]  # at most, not below


@pytest.mark.parametrize("network", [TinyMLP(), nn.BatchNorm2d(3, affine=False)])
def test_a_network_without_scales_is_refused(network: nn.Module) -> None:
    with pytest.raises(InputError, match="lazy_regime"):
        MaskDistance(0.5).start(network)


def test_diverged_scales_are_refused() -> None:
    with pytest.raises(InputError, match="diverged"):
        largest_scales(with_scales(1.0, math.nan), 0.5)


# ---- what holds for every detector


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("network", [TinyConvBN, TinyResidualConcat])
def test_a_detector_touches_neither_model_nor_state_and_repeats_itself(
    name: str, network: type[nn.Module]
) -> None:
    detector, model = MAKERS[name](), network()
    before = copy.deepcopy(model.state_dict())
    states = [detector.start(model)]
    assert_equal(model.state_dict(), before)
    for epoch in range(4):
        moved(model, epoch)
        weights, old = copy.deepcopy(model.state_dict()), copy.deepcopy(states[-1])
        results = [detector.observe(states[-1], model) for _ in range(2)]
        assert results[0][1] == results[1][1]
        assert_equal(results[0][0], results[1][0])
        assert_equal(model.state_dict(), weights)
        assert_equal(states[-1], old)
        states.append(results[0][0])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("stop", range(4))
def test_a_resumed_detector_goes_on_as_if_nothing_had_happened(name: str, stop: int, tmp_path: Path) -> None:
    def watched(interrupted: bool) -> list[float]:
        torch.manual_seed(0)
        detector, model = MAKERS[name](), TinyConvBN()
        state, series = detector.start(model), []
        for epoch in range(6):
            if interrupted and epoch == stop:
                torch.save(state, tmp_path / "state.pt")
                state = torch.load(tmp_path / "state.pt", weights_only=True)
            moved(model, epoch)
            state, value = detector.observe(state, model)
            series.append(value)
        return series

    assert watched(interrupted=True) == watched(interrupted=False)


@pytest.mark.parametrize("name", MAKERS)
def test_a_detector_says_when_it_fires(name: str) -> None:
    detector = MAKERS[name]()
    assert f"{detector.threshold:.3g}" in detector.words
    assert not detector.fires([])


@pytest.mark.parametrize("structured", [True, False])
def test_a_registered_detector_is_made_from_the_target_and_its_kind(structured: bool) -> None:
    assert {name: DETECTORS[name](0.8, structured) for name in DETECTORS} == {
        "lazy_regime": LazyRegime(0.8),
        "mask_distance": MaskDistance(0.8),
        "published_lazy_regime": PublishedLazyRegime(0.8, structured),
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: LazyRegime(1.0),
        lambda: LazyRegime(0.5, tau=0.0),
        lambda: PublishedLazyRegime(-0.1, structured=True),
        lambda: MaskDistance(1.5),
        lambda: MaskDistance(0.5, memory=1),
        lambda: MaskDistance(0.5, tau=-0.1),
    ],
)
def test_nonsense_is_refused(make: Callable[[], Detector]) -> None:
    with pytest.raises(UsageError, match="expected"):
        make()


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
