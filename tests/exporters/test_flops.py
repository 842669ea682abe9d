from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import Tensor, nn

from exporters.probes.flops import count_flops, flops
from tests.networks import TinyConvBN, TinyResidualConcat


def by_fvcore(model: nn.Module, example: tuple[Tensor, ...]) -> float:
    """Convolutions and linear layers as fvcore counts them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        logging.getLogger("fvcore").setLevel(logging.ERROR)
        counted = FlopCountAnalysis(model.eval(), example).unsupported_ops_warnings(False).by_operator()
    return float(counted["conv"] + counted["linear"])


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.Conv2d(8, 12, 1, groups=4),
        nn.ConvTranspose2d(12, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 16 * 16, 5),
    )


@pytest.mark.parametrize("network", [TinyConvBN, TinyResidualConcat, grouped])
def test_counts_are_fvcores(network: type[nn.Module]) -> None:
    example = (torch.ones(1, 3, 8, 8),)
    assert count_flops(network(), example) == by_fvcore(network(), example) > 0


class LastHidden(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.steps = kind(8, 16, 2, batch_first=True)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.steps(x)[0]
        return hidden


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_layers_count(kind: type[nn.RNNBase], gates: int) -> None:
    by_hand = 5 * gates * 16 * ((8 + 16) + (16 + 16))
    assert count_flops(LastHidden(kind), (torch.ones(1, 5, 8),)) == by_hand


def test_attention_counts_and_the_fast_path_is_left_as_it_was() -> None:
    layer, tokens = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 6
    projections = tokens * (16 * 48 + 16 * 16 + 2 * 16 * 32)
    before = torch.backends.mha.get_fastpath_enabled()
    assert count_flops(layer, (torch.ones(1, tokens, 16),)) == projections + 2 * tokens * tokens * 16
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_one_input_is_counted_whatever_the_example_holds() -> None:
    model = TinyConvBN().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert count_flops(model, (torch.ones(5, 3, 8, 8),)) == count_flops(model, (torch.ones(1, 3, 8, 8),))
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_unit_is_a_billion() -> None:
    readings = flops([nn.Linear(1000, 1000)], (torch.ones(1, 1000),))
    assert readings.networks[0].samples == (1e-3,)
    assert readings.unit == "GFLOP"
