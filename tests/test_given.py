"""What a Python caller gives and can't be used is refused in a sentence, before any work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import structprune
from structprune import StructpruneError
from structprune.scoring.samples import random_like
from tests.oracles.state import changed, snapshot

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def refused(words: str, model: Any = None, **options: Any) -> None:
    given = {"score": "snip", "export": False, "correct": "none", **options}
    with pytest.raises(StructpruneError, match=words):
        structprune.compress(network() if model is None else model, torch.zeros(2, 4), 0.5, **given)


class InDict(nn.Module):
    """Puts out a dictionary of something and of what classifies."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"words": "of it", "logits": self.net(x)}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet18", "model is a str; expected a network"),
        (network().state_dict(), "model is a OrderedDict; expected a network"),
        (InDict, "model is the class InDict; expected a network"),
        (nn.DataParallel(network()), r"model is a DataParallel; give the network inside, its \.module"),
        (torch.compile(network()), r"compiled by torch\.compile; give the network that was compiled"),
        (network().to("meta"), "on the meta device"),
    ],
    ids=["name", "state dict", "class", "parallel", "compiled", "meta"],
)
def test_what_is_no_plain_network(model: Any, words: str) -> None:
    refused(words, model)
    with pytest.raises(StructpruneError, match=words):
        structprune.score(model, torch.zeros(2, 4))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_has_no_layers() -> None:
    traced = torch.jit.trace(network(), torch.zeros(2, 4))  # type: ignore[no-untyped-call]
    refused("give the module that it was made of", traced)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((torch.randn(24, 5), Y), r"can't run on the inputs of data, each \(5,\) float32: .*shapes"),
        ((X.double(), Y), r"can't run on the inputs of data, each \(4,\) float64"),
        ((X, Y + 7), "the targets of data go from 7 to 9 and the network has 3 outputs"),
        ((X, Y - 1), "the targets of data go from -1 to 1"),
        ((X, Y.float()), r"doesn't take \(2, 3\), the output for 2 inputs, with targets float32"),
        ((X, nn.functional.one_hot(Y)), r"with targets int64 of shape \(N, 3\)"),
        ((X, Y[:, None]), r"with targets int64 of shape \(N, 1\)"),
    ],
    ids=["width", "precision", "too many classes", "a class below none", "numbers", "one hot", "a column"],
)
def test_data_that_do_not_fit(data: Any, words: str) -> None:
    refused(words, data=data)


def test_an_output_of_several_parts_is_scored_by_its_logits() -> None:
    torch.manual_seed(0)
    whole = InDict()
    of_whole, of_part = (structprune.score(net, X[:2], "snip", data=(X, Y)) for net in (whole, whole.net))
    assert torch.equal(of_whole.values["net.0"], of_part.values["0"])
    small = structprune.compress(whole, X[:2], 0.4, score="snip", data=(X, Y), export=False)
    assert small.report.loss == "cross entropy, of the output's 'logits'"
    assert f"scored with {small.report.loss}" in small.report.notes


@pytest.mark.parametrize("score", ["magnitude", "ntk_sap", "bn_scale", "synflow"])
@pytest.mark.parametrize(
    "targets", [torch.full((24,), -1), Y + 1000, torch.zeros(24)], ids=["none", "others", "0"]
)
def test_targets_that_no_score_takes_are_not_looked_at(score: str, targets: Tensor) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    assert structprune.score(model, X[:2], score, data=(X, targets)).values["0"].shape == (8,)


def test_targets_that_are_drawn_are_not_looked_at() -> None:
    found = structprune.score(network(), X[:2], "snip", data=(X, Y - 1), trained=True)
    assert found.values["0"].shape == (8,)


def test_a_forward_of_the_callers_own_may_look_into_the_network() -> None:
    def forward(net: Any, inputs: tuple[Tensor, ...]) -> Any:
        return net[2](net[1](net[0](inputs[0])))

    found = structprune.score(network(), X[:2], "magnitude", data=(X, Y), forward=forward)
    assert found.values["0"].shape == (8,)


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        return self.net(x)


class Twice(nn.Module):
    """Holds one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = self.other = Counting()
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.one(x).relu())


@pytest.mark.parametrize("kind", [Counting, Twice])
def test_checking_data_leaves_no_trace(kind: type[nn.Module]) -> None:
    model = kind()
    before = snapshot(model)
    structprune.score(model, X[:2], "snip", data=(X, Y))
    structprune.score(model, X[:2], "snip")
    assert not changed(before, snapshot(model))


@pytest.mark.parametrize(
    ("example", "held"),
    [
        (torch.ones(2, 6, dtype=torch.uint8), {1}),
        (torch.tensor([[[[0, 1]]], [[[1, 1]]]], dtype=torch.uint8), {0, 1}),
        (torch.tensor([[3, 5]]), {3, 5}),
    ],
    ids=["a mask", "a mask of four dimensions", "ids"],
)
def test_whole_numbers_are_drawn_from_an_example(example: Tensor, held: set[int]) -> None:
    drawn = random_like(example, 64, torch.Generator().manual_seed(0))
    assert set(drawn.flatten().tolist()) == held


def test_pixels_are_drawn_where_an_example_of_them_is_black() -> None:
    class OfPixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.conv(x.float() / 255).relu().mean((2, 3)))

    black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    small = structprune.compress(OfPixels(), black, 0.5, score="snip", export=False)
    assert small.report.nodes.after == 8
