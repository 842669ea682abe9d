"""Networks of the library transformers, in small configurations: what of them is offered, cut and loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structprune.channels import ChannelGroups, channel_groups
from structprune.models.results import load, save_weights_and_plan, widths_of
from structprune.nn.layers import counted_down
from structprune.nn.outputs import outputs_of
from structprune.proofs.trial_cut import verified_groups
from structprune.pruning.surgery import shrink
from tests.cuts import Cut, every_second

transformers: Any = pytest.importorskip("transformers")

Network = Callable[[], nn.Module]
WORDS = 128


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Small vocabularies make the library talk."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(level)


def llama(hidden: int = 64, units: int = 96, heads: int = 4, keys: int = 2) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=hidden,
        intermediate_size=units,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()  # type: ignore[no-any-return]


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).eval()  # type: ignore[no-any-return]


def detr() -> nn.Module:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=transformers.ResNetConfig(**sizes, out_features=["stage2"]),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=5,
    )
    torch.manual_seed(0)
    return transformers.DetrForObjectDetection(config).eval()  # type: ignore[no-any-return]


def t5() -> nn.Module:
    config = transformers.T5Config(vocab_size=WORDS, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_heads=4)
    torch.manual_seed(0)
    return transformers.T5EncoderModel(config).eval()  # type: ignore[no-any-return]


def ids() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(3, WORDS, (4, 10))


def share(groups: ChannelGroups) -> float:
    """The fraction of nodes that is in groups."""
    offered = {(row.layer, c) for group in groups for row in group.producers for c in row.channels}
    return len(offered) / groups.nodes


@pytest.mark.parametrize(
    ("network", "inputs", "least", "embedding"),
    [
        (llama, ids, 0.71, 1.0),
        (lambda: llama(256, 688, 8, 4), ids, 0.78, 1.0),
        (gpt2, ids, 0.44, 0.44),
        (detr, lambda: torch.rand(2, 3, 32, 32), 1.0, 1.0),
        (t5, ids, 1.0, 1.0),
    ],
    ids=["llama", "larger llama", "gpt2", "detr", "t5's encoder"],
)
def test_heads_and_hidden_units_are_offered(
    network: Network, inputs: Callable[[], Tensor], least: float, embedding: float
) -> None:
    model, x = network(), inputs()
    groups = channel_groups(model, x)
    assert share(verified_groups(model, groups, (x,))) >= least
    assert share(channel_groups(model, x, embedding=True)) >= embedding


def test_a_cut_llama_keeps_its_heads_in_step() -> None:
    cut = Cut(llama(), (ids(),))
    assert cut.proof().passed
    attention = cut.small.get_submodule("model.layers.0.self_attn")
    assert vars(attention)["num_key_value_groups"] == 2
    widths = [attention.get_submodule(f"{name}_proj").out_features for name in "qkv"]
    assert widths == [32, 16, 16]
    assert {x.shape[1] for x in outputs_of(cut.small(ids())).states.values()} == {1}


def text_of(network: Any, start: Tensor, cached: bool) -> Tensor:
    """Eight words more, the likeliest ones."""
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    return network.generate(start, use_cache=cached, **settings)  # type: ignore[no-any-return]


@pytest.mark.parametrize("network", [llama, gpt2])
def test_the_same_text_comes_after_loading_with_and_without_cache(network: Network, tmp_path: Path) -> None:
    model, x = network(), ids()
    groups = verified_groups(model, channel_groups(model, x), (x,))
    plan = every_second(groups)
    small = shrink(model, groups, plan).eval()
    dense_widths = widths_of(model, counted_down(small))
    save_weights_and_plan(tmp_path, small, plan, None, (10,), dense_widths=dense_widths, name="text")
    again = load(tmp_path, model=network())
    texts = [text_of(net, x[:, :5], cached) for net in (small, again) for cached in (True, False)]
    assert all(torch.equal(text, texts[0]) for text in texts)
    assert texts[0].shape == (4, 13)
