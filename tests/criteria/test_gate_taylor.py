from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d, cross_entropy, linear

from structprune.choices import Accumulate
from structprune.scoring.criteria import gate_taylor
from tests.criteria.settings import gated, network, sampling
from tests.oracles.forward import by_statistics, maps


@pytest.mark.parametrize("accumulate", ["total", "abs", "square"])
def test_it_is_the_papers_score_of_a_gate_behind_the_batch_norm(accumulate: Accumulate) -> None:
    model = network("TinyConvBN")
    taken_on = sampling("TinyConvBN", model, accumulate=accumulate)
    v = {name: p.detach() for name, p in model.named_parameters()}
    norm = by_statistics(taken_on.statistics or {})
    expected = torch.zeros(4, dtype=torch.float64)
    for batch in taken_on.batches:
        gate = torch.ones(4, dtype=torch.float64, requires_grad=True)
        h = torch.relu(maps(gate) * norm("bn1", conv2d(batch.inputs[0], v["conv1.weight"], padding=1), v))
        h = torch.relu(norm("bn2", conv2d(h, v["conv2.weight"], stride=2, padding=1), v)).mean((2, 3))
        loss = cross_entropy(linear(h, v["head.weight"], v["head.bias"]), batch.target)
        (slope,) = torch.autograd.grad(loss, [gate])
        expected += slope.abs()
    got = gate_taylor(gated("TinyConvBN", model, "channels"), taken_on)
    torch.testing.assert_close(got.values["conv1"], expected, rtol=1e-9, atol=0)
