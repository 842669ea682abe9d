"""Networks as they are built, and the same after training: what counts as trained, and what is said of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import structprune
from structprune.models.definitions import cifar_resnet20
from structprune.nn.trained import is_trained
from tests.networks import TinyConvBN, TinyMLP, example


def seen_data() -> nn.Module:
    model = TinyConvBN()
    model(example(TinyConvBN))
    return model


@pytest.mark.parametrize(
    ("model", "from_checkpoint", "pretrained", "word", "expected", "why"),
    [
        (seen_data, True, True, False, False, "you said so"),
        (TinyConvBN, False, False, True, True, "you said so"),
        (TinyConvBN, False, True, None, True, "pretrained"),
        (seen_data, False, False, None, True, "seen data"),
        (TinyConvBN, False, False, None, False, "seen nothing"),
        (TinyConvBN, True, False, None, False, "seen nothing"),
        (TinyMLP, True, False, None, True, "a guess.* read from a file"),
        (TinyMLP, False, False, None, False, "a guess.* not read from a file"),
    ],
)
def test_whether_a_network_counts_as_trained(
    model: Callable[[], nn.Module],
    from_checkpoint: bool,
    pretrained: bool,
    word: bool | None,
    expected: bool,
    why: str,
) -> None:
    trained, reason = is_trained(model(), from_checkpoint, pretrained, word)
    assert trained is expected
    assert re.search(why, reason)


# ---- as they are built


def timm(name: str) -> nn.Module:
    import timm as zoo

    model: nn.Module = zoo.create_model(name)
    return model


def transformer(kind: str, **sizes: Any) -> nn.Module:
    import transformers as zoo

    build: Any = zoo.AutoModel.from_config
    model: nn.Module = build(getattr(zoo, f"{kind}Config")(**sizes))
    return model


BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 200,
}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 200}
FRESH: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: nn.LSTM(40, 64, 2),
    "GRU": lambda: nn.GRU(16, 32, bidirectional=True),
    "torch's transformer": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 4, 128), 2, enable_nested_tensor=False
    ),
    "MLP": lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    "vision transformer": lambda: torchvision.models.VisionTransformer(32, 8, 3, 4, 64, 128),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(),
    "convnext": lambda: timm("convnext_atto"),
    "mixer": lambda: timm("gmlp_ti16_224"),
    "Bert": lambda: transformer("Bert", **BERT),
    "Llama": lambda: transformer("Llama", **BERT),
    "GPT2": lambda: transformer("GPT2", n_embd=64, n_layer=2, n_head=4, vocab_size=200),
    "T5": lambda: transformer("T5", **T5),
    "Mamba": lambda: transformer("Mamba", hidden_size=64, num_hidden_layers=2, vocab_size=200),
}


@pytest.mark.parametrize("name", FRESH)
def test_networks_as_they_are_built_count_as_untrained(name: str) -> None:
    torch.manual_seed(0)
    trained, why = is_trained(FRESH[name](), False, False, None)
    assert (trained, "as initialisers leave them" in why, "guess" in why) == (False, True, False), why


def test_a_file_of_fresh_weights_is_untrained() -> None:
    torch.manual_seed(0)
    assert not is_trained(FRESH["MLP"](), True, False, None)[0]


def test_norms_whose_scales_are_drawn_are_fresh() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 4), nn.GroupNorm(8, 64), nn.Conv2d(64, 64, 4), nn.GroupNorm(8, 64))
    for layer in model:
        nn.init.normal_(layer.get_parameter("weight"), 1.0 if isinstance(layer, nn.GroupNorm) else 0.0, 0.02)
    assert not is_trained(model, False, False, None)[0]


# ---- after training


class Reader(nn.Module):
    """Reads the rows of an image one after the other."""

    def __init__(self, middle: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.up, self.middle, self.head = nn.Linear(8, width), middle, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.middle(self.up(x.reshape(-1, 8, 8)))
        logits: Tensor = self.head((out[0] if isinstance(out, tuple) else out).mean(1))
        return logits


LEARNERS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    ),
    "LSTM": lambda: Reader(nn.LSTM(32, 32, batch_first=True)),
    "transformer": lambda: Reader(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True), 2, enable_nested_tensor=False
        )
    ),
}


@cache
def digits() -> tuple[Tensor, Tensor]:
    sklearn = pytest.importorskip("sklearn.datasets")
    found = sklearn.load_digits()
    return torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)


def learned(name: str, steps: int) -> nn.Module:
    torch.manual_seed(0)
    (x, y), model = digits(), LEARNERS[name]()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        some = torch.randint(0, len(x), (64,))
        optimiser.zero_grad()
        loss = cross_entropy(model(x[some]), y[some])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("name", LEARNERS)
def test_networks_without_batch_norms_count_as_trained_once_they_are(name: str) -> None:
    assert not is_trained(learned(name, 0), False, False, None)[0]
    trained, why = is_trained(learned(name, 120), False, False, None)
    assert trained
    assert re.search(r"have moved: \d+ of \d+ weights are no longer drawn alike", why)
    assert "guess" not in why


def test_the_word_of_the_caller_overrules_the_weights() -> None:
    assert is_trained(learned("MLP", 120), False, False, False) == (False, "you said so")


def test_a_few_steps_are_a_guess() -> None:
    trained, why = is_trained(learned("transformer", 3), False, False, None)
    assert trained
    assert "a guess" in why


def test_trained_weights_behind_batch_norms_that_are_identities(shared_data: Path) -> None:
    from safetensors.torch import load_file

    model, state = cifar_resnet20(), load_file(shared_data / "cifar10_resnet20.safetensors")
    kept = {name: x if x.dim() > 1 else model.state_dict()[name] for name, x in state.items()}
    model.load_state_dict(kept, strict=False)
    trained, why = is_trained(model, False, False, None)
    assert trained
    assert "though its batch norms have seen nothing" in why


def test_what_decided_is_in_the_report_and_weights_are_kept() -> None:
    model, (x, y) = learned("MLP", 120), digits()
    small = structprune.compress(model, x[:4], 0.4, data=(x[:64], y[:64]), export=False)
    assert small.report.trained
    assert "weights are no longer drawn alike" in small.report.trained_why
    assert any("mended by least-squares" in note for note in small.report.notes)
