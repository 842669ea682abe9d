from __future__ import annotations

import pytest
import torch

import structprune
from structprune.errors import InputError
from structprune.scoring.constant import check_varying, is_constant
from structprune.scoring.scores import Scores


@pytest.mark.parametrize("size", [0.0, 1.0, 3e-12, -2.0])
def test_scores_that_are_all_the_same_rank_nothing(size: float) -> None:
    noise = 1 + 1e-7 * torch.randn(5)
    scores = Scores({"a": torch.full((3,), size), "b": size * noise}, "snip")
    with pytest.raises(InputError, match=r"the snip score is .* for all 8 .* arbitrary"):
        check_varying(scores)


def test_scores_that_differ_pass() -> None:
    check_varying(Scores({"a": torch.ones(3), "b": torch.tensor([1.0, 1.0001])}, "snip"))
    check_varying(Scores({"a": torch.ones(1)}, "snip"))
    check_varying(Scores({"a": torch.zeros(3), "b": torch.ones(2)}, "snip"))
    with pytest.raises(InputError, match="within every group"):
        check_varying(Scores({"a": torch.zeros(3), "b": torch.ones(2)}, "snip"), within=True)


def test_nothing_is_no_ranking() -> None:
    assert not is_constant({})


@pytest.fixture
def network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))


@pytest.mark.parametrize("score", ["snip", "crop", "ntk_sap+crop"])
def test_a_loss_that_knows_nothing_is_refused(network: torch.nn.Module, score: str) -> None:
    x, y = torch.randn(16, 4), torch.zeros(16)
    data = {"data": (x, y), "loss": lambda output, target: output.sum() * 0}
    for call in (
        lambda: structprune.score(network, x[:2], score, **data),  # type: ignore[arg-type]
        lambda: structprune.compress(network, x[:2], 0.4, score=score, export=False, **data),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=r"score is zero for all 8 channels"):
            call()


def test_batch_norms_that_have_learned_nothing_cut_nothing(network: torch.nn.Module) -> None:
    x = torch.zeros(2, 4)
    with pytest.raises(InputError, match="the bn_scale score is the same, 1, for all 8 channels"):
        structprune.compress(network, x, 0.4, score="bn_scale", export=False)
    assert structprune.score(network, x, "bn_scale").values["0"].tolist() == [1.0] * 8
