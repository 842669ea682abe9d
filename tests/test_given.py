"""What a Python caller gives and can't be used is refused in a sentence, before any work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import structprune
from structprune import StructpruneError
from tests.oracles.state import changed, snapshot

X, Y = torch.randn(24, 4), torch.arange(24) % 3


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def refused(words: str, model: Any = None, **options: Any) -> None:
    given = {"score": "snip", "export": False, "correct": "none", **options}
    with pytest.raises(StructpruneError, match=words):
        structprune.compress(network() if model is None else model, torch.zeros(2, 4), 0.5, **given)


class InDict(nn.Module):
    """Puts out a dictionary of something and of what classifies."""

    def __init__(self, name: str = "logits") -> None:
        super().__init__()
        self.net, self.name = network(), name

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"words": "of it", self.name: self.net(x)}


class OfWords(nn.Module):
    """Puts out no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> str:
        return str(self.net(x).sum())


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
        ((X, Y.float()), r"float32 of shape \(16,\); cross entropy takes whole numbers"),
    ],
    ids=["width", "precision", "too many classes", "a class below none", "numbers"],
)
def test_data_that_do_not_fit(data: Any, words: str) -> None:
    refused(words, data=data)


def test_an_output_without_class_scores() -> None:
    refused("puts out a str, which cross entropy doesn't take; give loss=", OfWords(), data=(X, Y))


@pytest.mark.parametrize("name", ["loss", "forward", "evaluate", "finetune", "progress"])
def test_what_can_not_be_called(name: str) -> None:
    refused(f"{name} is a int; expected a function", **{name: 3})


def test_an_accuracy_that_is_none() -> None:
    refused("evaluate gave 'high'; expected an accuracy from 0 to 1", evaluate=lambda _: "high")


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8])
def test_classes_may_be_whole_numbers_of_any_kind(kind: torch.dtype) -> None:
    model = network()
    usual, other = (structprune.score(model, X[:2], "snip", data=(X, y)) for y in (Y, Y.to(kind)))
    assert all(torch.equal(usual.values[name], other.values[name]) for name in usual.values)


@pytest.mark.parametrize("name", ["logits", "out", "something"])
def test_class_scores_are_found_in_a_dictionary(name: str) -> None:
    model = InDict(name)
    found = structprune.score(model, X[:2], "snip", data=(X, Y))
    plain = structprune.score(model.net, X[:2], "snip", data=(X, Y))
    assert torch.equal(found.values["net.0"], plain.values["0"])


def test_checking_data_leaves_no_trace() -> None:
    class Counting(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return self.net(x)

    model = Counting()
    before = snapshot(model)
    structprune.score(model, X[:2], "snip", data=(X, Y))
    structprune.score(model, X[:2], "snip")
    assert not changed(before, snapshot(model))


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
