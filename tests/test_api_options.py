"""Options of the Python interface on a network that is cut in a moment: refusals, modes, precisions."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import structprune
from structprune import Compressed
from structprune.errors import (
    InputError,
    ProofFailedError,
    TargetUnreachableError,
    UnsafeCheckpointError,
    UsageError,
)
from tests.networks import TinyMLP, example


@pytest.fixture
def scratch(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where temporary files go, but for the caches that torch makes when it is first needed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    return tmp_path


def local_mlp() -> nn.Module:
    """A network whose class is local, so that its reload is proven without a fresh process."""

    class Local(TinyMLP):
        pass

    return Local()


def compressed(model: nn.Module | None = None, nodes: float = 0.4, **options: Any) -> Compressed:
    given = {"score": "magnitude", "export": False, "samples": 8, **options}
    return structprune.compress(model or local_mlp(), example(TinyMLP), nodes, **given)


def test_the_files_go_when_the_result_does(scratch: Path) -> None:
    result = compressed()
    assert [*scratch.glob("structprune-*")] == [result.files]  # torch may keep caches of its own beside it
    del result
    gc.collect()
    assert [*scratch.glob("structprune-*")] == []


def not_finite() -> nn.Module:
    model = local_mlp()
    with torch.no_grad():
        model.get_parameter("fc2.weight")[1, 1] = torch.nan
    return model


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"nodes": 0.99}, TargetUnreachableError),
        ({"nodes": 1.5}, UsageError),
        ({"nodes": -0.1}, UsageError),
        ({"nodes": float("nan")}, UsageError),
        ({"floor": 1.0}, UsageError),
        ({"align": 0}, UsageError),
        ({"steps": 0}, UsageError),
        ({"draws": 0}, UsageError),
        ({"chunk": 0}, UsageError),
        ({"samples": 0}, UsageError),
        ({"samples": 1}, UsageError),
        ({"score": "snap"}, UsageError),
        ({"data": []}, InputError),
        ({"data": (torch.ones(8, 4), torch.zeros(8, dtype=torch.long))}, InputError),
        ({"accumulate": "sum", "score": "snip"}, UsageError),
        ({"model": not_finite()}, InputError),
        ({"model": nn.ReLU()}, InputError),
        ({"model": nn.Linear(7, 3)}, InputError),
        ({"data": (torch.full((8, 5), torch.nan), torch.zeros(8, dtype=torch.long))}, InputError),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_a_sentence_and_leaves_nothing(
    scratch: Path, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        compressed(**options)
    assert len(str(caught.value)) > 20
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    "architecture", ["resnet", "os:system", "structprune:no_such", "torchvision:resnet18"]
)
def test_an_architecture_that_does_not_build_the_network_is_refused_before_any_work(
    architecture: str,
) -> None:
    said: list[str] = []
    with pytest.raises((UsageError, InputError, UnsafeCheckpointError)):
        compressed(architecture=architecture, progress=said.append)
    assert said == []


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_proofs_take_inputs_of_their_own_where_few_score(count: int) -> None:
    report = compressed(samples=count, export=True).report
    assert report.samples == count
    assert [proof.passed for proof in report.proofs] == [True] * 4


@pytest.mark.parametrize("score", ["magnitude", "snip"])
def test_a_network_without_anything_to_cut_is_refused(score: str) -> None:
    with pytest.raises((TargetUnreachableError, InputError), match="output"):
        compressed(nn.Sequential(nn.Linear(5, 3)), 0.5, score=score)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_the_caller_has_switched_them_off(mode: Callable[[], Any]) -> None:
    model = local_mlp()
    expected = compressed(model, score="crop").scores.values
    with mode():
        found = compressed(model, score="crop").scores.values
    assert all(torch.equal(found[g], expected[g]) for g in expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_precisions_are_exported_in_float32(dtype: torch.dtype) -> None:
    x = example(TinyMLP).to(dtype)
    result = structprune.compress(local_mlp().to(dtype), x, 0.4, score="magnitude")
    assert {p.dtype for p in result.model.parameters()} == {dtype}
    assert [proof.passed for proof in result.report.proofs] == [True] * 4


def test_fine_tuning_is_given_the_shrunk_network() -> None:
    model = local_mlp()
    given: list[nn.Module] = []
    result = compressed(model, finetune=given.append, evaluate=lambda _: 0.5)
    assert [id(net) for net in given] == [id(result.model)]
    assert result.report.accuracy is not None
    assert result.report.accuracy.finetuned == 0.5


def test_fine_tuning_that_diverges_is_said_to_have() -> None:
    def diverge(net: nn.Module) -> None:
        with torch.no_grad():
            net.get_parameter("head.bias").fill_(torch.nan)

    with pytest.raises(InputError, match=r"fine-tuning left head\.bias with NaN .*lower learning rate"):
        compressed(finetune=diverge)


def test_an_accuracy_in_per_cent_is_refused() -> None:
    with pytest.raises(InputError, match=r"evaluate gave 87\.0; expected an accuracy from 0 to 1"):
        compressed(evaluate=lambda _: 87.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skip": ["nothing*"]}, r"^skip=nothing\* matches no layer"),
        ({"limits": {"params": 2}}, r"^limits=\{'params': '2'\}: expected"),
    ],
)
def test_errors_speak_of_arguments_and_not_of_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compressed(**options)


@pytest.mark.parametrize("given", [None, "image", 3, [1, 2], (torch.zeros(1, 5), None)], ids=str)
def test_example_inputs_that_are_none(given: Any) -> None:
    with pytest.raises(UsageError, match=r"example_input is a .*; expected a tensor, or several in a tuple"):
        structprune.compress(local_mlp(), given, 0.4)


@pytest.mark.parametrize("align", [2.5, "x", None])
def test_an_alignment_that_is_no_number_of_channels(align: Any) -> None:
    with pytest.raises(UsageError, match="expected a number, or 'auto'"):
        compressed(align=align)


def test_example_inputs_that_are_all_alike_are_named_as_the_cause() -> None:
    torch.manual_seed(0)
    reader = nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(56, 16), nn.ReLU(), nn.Linear(16, 3))
    with pytest.raises(ProofFailedError, match="inputs that are all alike make them so: give varied ones"):
        structprune.compress(reader, torch.zeros(1, 7, dtype=torch.long), 0.5, score="magnitude")


def test_the_seed_is_all_that_is_random() -> None:
    def plan(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(1)
        return dict(compressed(score="ntk_sap+crop", seed=seed).plan.keep)

    one, again = plan(2), plan(2)
    assert all(torch.equal(one[g], again[g]) for g in one)


def test_layers_that_keep_every_channel_by_score_are_named() -> None:
    torch.manual_seed(0)
    sizes = zip((8, 60, 60, 60, 60), (60, 60, 60, 60, 3), strict=True)
    model = nn.Sequential(*(layer for a, b in sizes for layer in (nn.Linear(a, b), nn.ReLU())))
    with torch.no_grad():
        model.get_parameter("2.weight").mul_(0.01)  # its filters go first
    x = torch.randn(8, 8)
    few = structprune.compress(model, x, nodes=0.05, score="filter_norm", export=False)
    note = "3 layers keep every channel, since those of others score lower: 0, 4, 6"
    assert note in few.report.notes
    many = structprune.compress(model, x, nodes=0.5, score="filter_norm", export=False)
    assert not any("keep every channel" in said for said in many.report.notes)


def test_data_mend_a_network_that_counts_as_trained() -> None:
    data = (torch.randn(80, 5), torch.randint(0, 3, (80,)))
    asked: tuple[dict[str, Any], ...] = ({"trained": True}, {"trained": True, "correct": "none"}, {})
    mended, cut, untrained = (
        compressed(same_weights(), data=data, evaluate=lambda _: 0.5, **options) for options in asked
    )
    for result, value in ((mended, 0.5), (cut, None), (untrained, None)):
        assert result.report.accuracy is not None
        assert result.report.accuracy.mended == value
    dense, x = same_weights(), torch.randn(50, 5)
    off = [float((r.model(x) - dense(x)).square().mean().detach()) for r in (mended, cut)]
    assert off[0] < off[1]
    assert any(note.startswith("mended by least-squares") for note in mended.report.notes)


def same_weights() -> nn.Module:
    torch.manual_seed(1)
    return local_mlp()


def test_few_inputs_mend_only_where_that_is_asked_for() -> None:
    few = (torch.randn(6, 5), torch.randint(0, 3, (6,)))
    assert not any("mended" in note for note in compressed(trained=True, data=few).report.notes)
    with pytest.raises(UsageError, match="6 inputs are too few to mend a network on"):
        compressed(trained=True, data=few, correct="least-squares")
    with pytest.raises(UsageError, match="least-squares corrects a network on data"):
        compressed(correct="least-squares")


def test_an_unknown_correction_is_refused_before_any_data_are_read() -> None:
    batches = iter([(torch.randn(16, 5), torch.randint(0, 3, (16,)))])
    with pytest.raises(UsageError, match="unknown correction 'magic'; known: least-squares"):
        compressed(trained=True, data=batches, correct="magic")
    assert len(list(batches)) == 1


class Bright(nn.Module):
    """Control flow on values, which only tracing exports."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        out: Tensor = self.last((h * 2 if x.abs().max() > 1e3 else h).mean((2, 3)))
        return out


def test_control_flow_is_fixed_where_tracing_is_asked_for_by_name() -> None:
    torch.manual_seed(0)
    network, example = Bright(), torch.randn(2, 3, 8, 8)
    options: dict[str, Any] = {"nodes": 0.5, "score": "magnitude"}
    with pytest.raises(ProofFailedError, match=r"onnx failed.*ask for the legacy exporter by name"):
        structprune.compress(network, example, **options)
    done = structprune.compress(network, example, **options, exporter="legacy")
    (proof,) = (proof for proof in done.report.proofs if proof.name == "onnx")
    assert proof.passed
    assert "control flow fixed to what the example takes" in proof.how


def test_an_unknown_exporter_is_refused() -> None:
    with pytest.raises(UsageError, match="known: auto, dynamo, legacy"):
        structprune.compress(Bright(), torch.randn(2, 3, 8, 8), nodes=0.5, exporter="onnx")  # type: ignore[arg-type]
