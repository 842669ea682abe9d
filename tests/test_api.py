"""The Python interface, with the real tools; whole runs are shared, since each starts a process."""

from __future__ import annotations

import copy
import getpass
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import structprune
from structprune import Compressed
from structprune.errors import OutputError, UsageError
from structprune.models.definitions.mlp import mlp
from structprune.report.serialise import from_json
from tests.networks import CLASSES, TinyConvBN, TinyMLP, TinyResidualConcat, example
from tests.oracles.state import changed, snapshot

X = example(TinyResidualConcat, 24)
Y = torch.arange(24) % CLASSES


@dataclass
class Run:
    """A network before and after, and what changed about it."""

    dense: nn.Module
    result: Compressed
    changed: list[str]


def run(dense: nn.Module, compress: Callable[[nn.Module], Compressed]) -> Run:
    before = snapshot(dense)
    result = compress(dense)
    return Run(dense, result, changed(before, snapshot(dense)))


@pytest.fixture(scope="module")
def residual() -> Run:
    torch.manual_seed(0)
    return run(
        TinyResidualConcat().train(),
        lambda net: structprune.compress(net, X[:1], 0.4, data=(X, Y), draws=2, evaluate=lambda _: 0.25),
    )


class TwoInputs(nn.Module):
    """Two inputs, and scores beside features in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = nn.Conv2d(3, 8, 3), nn.Linear(5, 6)
        self.mixed, self.head = nn.Linear(14, 7), nn.Linear(7, 3)

    def forward(self, image: Tensor, vector: Tensor) -> dict[str, Tensor]:
        maps, hidden = torch.relu(self.image(image)), torch.relu(self.vector(vector))
        mixed = torch.relu(self.mixed(torch.cat([maps.mean((2, 3)), hidden], 1)))
        return {"scores": self.head(mixed), "mean": image.mean((1, 2, 3))}


@pytest.fixture(scope="module")
def two_inputs() -> Run:
    torch.manual_seed(0)
    inputs = (torch.randn(16, 3, 8, 8), torch.randn(16, 5))
    return run(
        TwoInputs(),
        lambda net: structprune.compress(
            net,
            tuple(x[:2] for x in inputs),
            0.5,
            score="crop",
            data=(inputs, Y[:16]),
            loss=cross_entropy,
            forward=lambda network, given: network(*given)["scores"],
        ),
    )


@pytest.fixture(scope="module")
def named() -> Run:
    torch.manual_seed(0)
    return run(
        mlp(),
        lambda net: structprune.compress(
            net,
            torch.ones(2, 1, 28, 28),
            0.5,
            score="magnitude",
            architecture="structprune:mlp",
            export=False,
        ),
    )


# ---- the package


def test_the_public_names_are_these() -> None:
    names = ["Compressed", "StructpruneError", "__version__", "channel_groups", "compress", "load", "score"]
    assert structprune.__all__ == names == dir(structprune)
    assert all(getattr(structprune, name) is not None for name in names)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'prune'"):
        _ = structprune.prune


def test_importing_structprune_alone_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "onnx", "onnxruntime", "rich", "typer", "codecarbon", "sklearn")
    code = (
        f"import sys, structprune; structprune.__version__; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- compress


RUNS = ["residual", "two_inputs", "named"]


@pytest.fixture
def any_run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("any_run", RUNS, indirect=True)
def test_the_network_that_came_in_is_bit_for_bit_as_it_was(any_run: Run) -> None:
    assert any_run.changed == []


@pytest.mark.parametrize("any_run", RUNS, indirect=True)
def test_every_proof_passed(any_run: Run) -> None:
    proofs = any_run.result.report.proofs
    assert all(proof.passed for proof in proofs)
    assert {"closed_gates", "reloaded", "signature"} <= {proof.name for proof in proofs}


@pytest.mark.parametrize("any_run", RUNS, indirect=True)
def test_the_target_is_met_to_the_node(any_run: Run) -> None:
    nodes = any_run.result.report.nodes
    assert nodes.asked is not None
    assert nodes.before - nodes.after == round(nodes.asked * nodes.before)


def test_the_result_is_a_smaller_plain_module_of_the_same_class(residual: Run) -> None:
    small = residual.result.model
    assert type(small) is TinyResidualConcat
    assert not small.training
    assert small(X).shape == (24, CLASSES)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (residual.dense, small)]
    assert (residual.result.report.parameters.before, residual.result.report.parameters.after) == tuple(sizes)
    assert sizes[1] < sizes[0]


def test_the_callers_data_and_accuracy_are_in_the_report(residual: Run) -> None:
    report = residual.result.report
    assert report.samples == 24
    assert report.data == "24 of the caller's own inputs"
    assert report.accuracy is not None
    assert (report.accuracy.before, report.accuracy.cut, report.accuracy.finetuned) == (0.25, 0.25, None)
    assert (report.trained, "seen nothing" in report.trained_why) == (False, True)


def test_multiply_adds_are_those_counted_by_hand(two_inputs: Run) -> None:
    flops = two_inputs.result.report.flops
    assert flops is not None
    widths = two_inputs.result.report.widths
    a, b, c = (widths[name][1] for name in ("image", "vector", "mixed"))
    assert flops.before == 36 * 27 * 8 + 5 * 6 + 14 * 7 + 7 * 3
    assert flops.after == 36 * 27 * a + 5 * b + (a + b) * c + c * 3


def test_several_inputs_and_a_dictionary_of_outputs(two_inputs: Run) -> None:
    result = two_inputs.result
    outputs = result.model(*result.example_inputs)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {"scores": (2, 3), "mean": (2,)}
    assert [proof.name for proof in result.report.proofs] == ["closed_gates", "reloaded", "onnx", "signature"]


@pytest.mark.parametrize("any_run", RUNS, indirect=True)
def test_the_scores_are_those_that_score_gives(any_run: Run) -> None:
    plan, scores = any_run.result.plan, any_run.result.scores
    assert scores.values.keys() == plan.keep.keys()
    for group, keep in plan.keep.items():
        values = scores.values[group]
        assert values.shape == keep.shape
        if keep.any() and not keep.all():
            assert values[keep].min() >= values[~keep].max()


def test_score_gives_what_compress_chose_by(residual: Run) -> None:
    found = structprune.score(residual.dense, X[:1], data=(X, Y), draws=2)
    assert all(torch.equal(found.values[g], residual.result.scores.values[g]) for g in found.values)
    assert found.criterion == residual.result.scores.criterion == "ntk_sap+crop"


@pytest.mark.parametrize("criterion", ["snip", "magnitude", "random", "ntk_sap+crop"])
def test_score_leaves_no_trace(criterion: str) -> None:
    model = TinyConvBN().train()
    before = snapshot(model)
    scores = structprune.score(model, example(TinyConvBN), criterion, samples=8, draws=2)
    assert changed(before, snapshot(model)) == []
    assert {name: tuple(value.shape) for name, value in scores.values.items()} == {
        "conv1": (4,),
        "conv2": (6,),
    }


def test_channel_groups_is_the_public_one() -> None:
    groups = structprune.channel_groups(TinyMLP(), example(TinyMLP))
    assert {g.name: g.size for g in groups} == {"fc1": 6, "fc2": 4}


@pytest.mark.parametrize(
    ("model", "example_input", "words"),
    [
        ("resnet18", torch.zeros(1, 3), "model is a str; expected a network"),
        (nn.DataParallel(nn.Linear(3, 2)), torch.zeros(1, 3), "give the network inside, its .module"),
        (TinyMLP(), "image.png", "example_input is a str; expected a tensor, or several in a tuple"),
        (TinyMLP(), {"x": torch.zeros(1, 3)}, "example_input is a dict; expected"),
        (TinyMLP(), torch.zeros(1, 3), "give an example input that its forward pass accepts (example_input)"),
    ],
)
def test_channel_groups_refuses_what_it_can_not_read_in_a_sentence(
    model: Any, example_input: Any, words: str
) -> None:
    with pytest.raises(structprune.StructpruneError) as refused:
        structprune.channel_groups(model, example_input)
    assert words in str(refused.value)


# ---- reports


@pytest.mark.parametrize("any_run", RUNS, indirect=True)
def test_the_written_report_comes_back_equal(any_run: Run) -> None:
    text = (any_run.result.files / "report.json").read_text(encoding="utf-8")
    assert from_json(text) == any_run.result.report


@pytest.mark.parametrize("name", ["report.json", "report.md", "plan.json"])
@pytest.mark.parametrize("any_run", RUNS, indirect=True)
def test_no_user_host_or_folder_is_named(any_run: Run, name: str) -> None:
    text = (any_run.result.files / name).read_text(encoding="utf-8")
    folders = (Path.home(), Path.cwd(), any_run.result.files, Path(tempfile.gettempdir()), Path(sys.prefix))
    for private in (getpass.getuser(), platform.node(), *map(str, folders)):
        assert not re.search(rf"(?<!\w){re.escape(private)}(?!\w)", text), private


# ---- saved and loaded


@pytest.fixture
def saved(residual: Run, tmp_path: Path) -> Path:
    residual.result.save(tmp_path / "result")
    return tmp_path / "result"


def test_save_writes_all_the_files(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert names == {"model.safetensors", "plan.json", "model.onnx", "report.json", "report.md"}
    assert [path.name for path in saved.parent.iterdir()] == ["result"]


def test_what_is_loaded_equals_the_model_and_trains_on(residual: Run, saved: Path) -> None:
    loaded = structprune.load(saved, model=residual.dense)
    small = residual.result.model
    expected, found = small.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    outputs = small(X)
    assert torch.equal(outputs, loaded(X))
    losses = trained(loaded)
    assert losses[-1] < losses[0]
    assert torch.equal(outputs, small(X))  # training one leaves the other alone


def trained(model: nn.Module, steps: int = 20) -> list[float]:
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        loss = cross_entropy(model(X), Y)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    return losses


def test_the_model_itself_trains(residual: Run) -> None:
    losses = trained(copy.deepcopy(residual.result.model))
    assert losses[-1] < losses[0]


def test_a_network_with_an_architecture_is_loaded_without_a_module(named: Run, tmp_path: Path) -> None:
    named.result.save(tmp_path / "result")
    loaded = structprune.load(str(tmp_path / "result"))
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(loaded(x), named.result.model(x))


def test_an_existing_folder_is_refused_and_left_alone(residual: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError):
            residual.result.save(tmp_path, force)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_earlier_result_is_replaced_only_by_force(residual: Run, saved: Path) -> None:
    (saved / "report.md").unlink()
    with pytest.raises(OutputError, match="exists; force= replaces an earlier result"):
        residual.result.save(saved)
    assert not (saved / "report.md").exists()
    residual.result.save(str(saved), force=True)
    assert (saved / "report.md").read_text().startswith("# TinyResidualConcat")


def test_a_result_that_somebody_wrote_into_is_not_replaced(residual: Run, saved: Path) -> None:
    (saved / "report.md").write_text("my notes on it")
    with pytest.raises(OutputError, match="left as it is"):
        residual.result.save(saved, force=True)
    assert (saved / "report.md").read_text() == "my notes on it"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_breaks_off_leaves_nothing(
    residual: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def breaking_off(source: Path, target: Path, **_: Any) -> None:
        shutil.copy(source / "plan.json", target)
        raise error

    monkeypatch.setattr(shutil, "copytree", breaking_off)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        residual.result.save(tmp_path / "result")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_was_trained_since_is_not_saved_under_old_proofs(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    small = structprune.compress(net, torch.zeros(2, 4), 0.5, score="magnitude", export=False)
    small.save(tmp_path / "before")
    with torch.no_grad():
        next(small.model.parameters()).add_(1.0)
    with pytest.raises(UsageError, match="changed since"):
        small.save(tmp_path / "after")
    assert [path.name for path in tmp_path.iterdir()] == ["before"]
