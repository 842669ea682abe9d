from __future__ import annotations

import torch

from structprune.scoring.criteria import random
from tests.criteria.settings import gated, network, sampling


def test_scores_are_uniform_in_zero_to_one_and_none_is_like_another() -> None:
    model = network("TinyConvBN")
    scores = random(gated("TinyConvBN", model, "weights"), sampling("TinyConvBN", model))
    flat = torch.cat([value.flatten() for value in scores.values.values()])
    assert len(set(flat.tolist())) == len(flat) == 342
    assert 0 <= float(flat.min()) < 0.05
    assert 0.95 < float(flat.max()) < 1
    assert abs(float(flat.mean()) - 0.5) < 0.05
