"""The story with tools that are played by the test, on a network whose every figure is counted by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structprune.errors import InputError, ProofFailedError, TargetUnreachableError
from structprune.limits.parse import fraction_of_nodes
from structprune.models.results import save_weights_and_plan
from structprune.pruning.surgery import shrink
from structprune.reconstruction import methods as mending
from structprune.reconstruction import reconstruction_on
from structprune.report.data import Accuracy
from structprune.report.serialise import from_json
from structprune.scoring.samples import random_samples
from structprune.scoring.score import Scoring
from structprune.workflows import compress as pipeline
from structprune.workflows import outputs as delivery
from structprune.workflows.compress import compress
from structprune.workflows.request import Judge, Outcome, Request
from tests.networks import TinyResidualConcat, example
from tests.oracles.state import changed, snapshot
from tests.played_tools import CHECKED, ENERGY, PlayedJudge, PlayedTools


def mlp() -> nn.Module:
    """5 -> 8 -> 6 -> 3 with biases: 14 nodes, 106 weights, 123 parameters, 106 multiply-adds.

    Its class is local, so that the proof of reloading needs no fresh process.
    """

    class Local(nn.Sequential):
        pass

    return Local(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def residual() -> nn.Module:
    class Local(TinyResidualConcat):
        pass

    return Local()


def request_for(model: nn.Module, x: Tensor, nodes: float = 0.5, **options: Any) -> Request:
    scoring = options.pop("scoring", Scoring("crop"))
    return Request(
        model=model,
        example=(x,),
        limits=(fraction_of_nodes(nodes),),
        samples=random_samples(model, (x,), 16),
        scoring=scoring,
        name="tiny",
        trained_why="the test says so",
        **options,
    )


@dataclass
class Ran:
    """A whole run with everything played, and what it left."""

    request: Request
    outcome: Outcome
    folder: Path
    tools: PlayedTools
    judge: PlayedJudge
    finetuned: list[nn.Module]
    told: list[str]
    changed: list[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    torch.manual_seed(0)
    model, x = mlp().train(), torch.randn(4, 5)
    tools, judge = PlayedTools(fallback="dynamo failed"), PlayedJudge()
    finetuned: list[nn.Module] = []
    told: list[str] = []

    def finetune(small: nn.Module) -> None:
        finetuned.append(small)
        with torch.no_grad():
            small.train().get_parameter("4.bias").fill_(7.0)

    request = request_for(
        model,
        x,
        judge=Judge(judge, 40, "forty images"),
        finetune=finetune,
        notes=("a note of the caller",),
        scoring=Scoring("ntk_sap+crop", draws=3, seed=5),
    )
    folder = tmp_path_factory.mktemp("ran")
    before = snapshot(model)
    outcome = compress(request, folder, tools, told.append)
    return Ran(request, outcome, folder, tools, judge, finetuned, told, changed(before, snapshot(model)))


# ---- the report, figure by figure


def kept(ran: Ran) -> tuple[int, int]:
    a, b = (int(ran.outcome.plan.keep[name].sum()) for name in ("0", "2"))
    return a, b


def test_the_counts_are_those_made_by_hand(ran: Ran) -> None:
    a, b = kept(ran)
    report = ran.outcome.report
    assert a + b == 7
    assert (report.nodes.before, report.nodes.after, report.nodes.removed) == (14, 7, 0.5)
    weights = 5 * a + a * b + 3 * b
    assert (report.weights.before, report.weights.after) == (106, weights)
    assert report.weights.removed == pytest.approx(1 - weights / 106)
    assert (report.parameters.before, report.parameters.after) == (123, weights + a + b + 3)
    assert report.flops is not None
    assert (report.flops.before, report.flops.after) == (106, weights)
    asked = [c.asked for c in (report.nodes, report.weights, report.parameters, report.flops)]
    assert asked == [0.5, None, None, None]
    assert report.widths == {"0": (8, a), "2": (6, b), "4": (3, 3)}


def test_the_report_says_what_was_done(ran: Ran) -> None:
    report = ran.outcome.report
    assert (report.method, report.model, report.seed) == ("ntk_sap+crop", "tiny", 5)
    assert (report.samples, report.draws) == (16, 3)
    assert (report.trained, report.trained_why) == (False, "the test says so")
    assert report.data == ran.request.samples.how
    assert [(row.layer, "outputs" in row.reason) for row in report.protected] == [("4", True)]
    assert {
        "trace",
        "score",
        "cut",
        "prove",
        "finetune",
        "write",
        "export",
        "measure",
    } <= report.seconds.keys()
    assert all(seconds >= 0 for seconds in report.seconds.values())


def test_the_proofs_come_in_order_and_all_passed(ran: Ran) -> None:
    proofs = ran.outcome.report.proofs
    assert [proof.name for proof in proofs] == ["closed_gates", "reloaded", "onnx", "signature"]
    assert all(proof.passed for proof in proofs)


def test_accuracy_is_taken_before_after_the_cut_and_after_fine_tuning(ran: Ran) -> None:
    accuracy = ran.outcome.report.accuracy
    assert accuracy is not None
    assert (accuracy.before, accuracy.cut, accuracy.finetuned) == (0.9, 0.5, 0.8)
    assert (accuracy.images, accuracy.how) == (40, "forty images")
    small = ran.outcome.model
    assert [id(m) for m in ran.judge.judged] == [id(ran.request.model), id(small), id(small)]


def test_only_the_shrunk_network_is_fine_tuned_and_that_is_what_goes_out(ran: Ran) -> None:
    assert [id(m) for m in ran.finetuned] == [id(ran.outcome.model)]
    assert not any(module.training for module in ran.outcome.model.modules())
    assert (ran.outcome.model.get_parameter("4.bias") == 7).all()
    from safetensors.torch import load_file

    assert (load_file(ran.folder / "model.safetensors")["4.bias"] == 7).all()


def test_notes_are_kept_and_joined_by_what_the_tools_say(ran: Ran) -> None:
    notes = ran.outcome.report.notes
    assert notes[0] == "a note of the caller"
    assert any("legacy exporter" in note and "dynamo failed" in note for note in notes)
    assert notes[-1] == "memory was not measured"


def test_break_even_is_energy_spent_over_energy_saved_an_inference(ran: Ran) -> None:
    # 300 J spent; 50 J and 20 J per 1,000 inferences: 0.03 J saved with each.
    assert ran.outcome.report.break_even == pytest.approx(10_000)
    assert ran.outcome.report.measurements == (ENERGY,)


def test_compressing_is_metered_and_measuring_is_not(ran: Ran) -> None:
    assert ran.tools.asked == ["meter on", "meter off", "export", "check", "export", "measure"]


def test_the_network_that_came_in_is_bit_for_bit_as_it_was(ran: Ran) -> None:
    assert ran.changed == []


def test_the_folder_holds_the_result_and_the_report_and_nothing_else(ran: Ran) -> None:
    names = {path.name for path in ran.folder.iterdir()}
    assert names == {"model.safetensors", "plan.json", "model.onnx", "report.json", "report.md"}
    text = (ran.folder / "report.json").read_text(encoding="utf-8")
    assert from_json(text) == ran.outcome.report
    assert json.loads(text)["widths"]["4"] == [3, 3]
    assert "# tiny: 50.0 % of the nodes removed" in (ran.folder / "report.md").read_text(encoding="utf-8")


def test_what_happens_is_told_in_order(ran: Ran) -> None:
    expected = ["coupled", "scoring", "cutting", "proving", "accuracy", "fine-tuning", "reading back", "ONNX"]
    said = iter(ran.told)
    assert all(any(word in line for line in said) for word in expected)
    assert ran.told[-1] == "measuring energy"


# ---- what can be left out


@pytest.fixture
def plain(tmp_path: Path) -> Callable[..., Outcome]:
    def run(tools: Any = None, model: nn.Module | None = None, **options: Any) -> Outcome:
        model = mlp() if model is None else model
        x = torch.randn(4, 5) if isinstance(model, nn.Sequential) else example(TinyResidualConcat)
        return compress(request_for(model, x, **options), tmp_path, tools)

    return run


def test_without_tools_there_is_no_onnx_and_no_measurement(
    plain: Callable[..., Outcome], tmp_path: Path
) -> None:
    report = plain().report
    assert [proof.name for proof in report.proofs] == ["closed_gates", "reloaded", "signature"]
    assert (report.flops, report.measurements, report.break_even, report.accuracy) == (None, (), None, None)
    assert not (tmp_path / "model.onnx").exists()


def test_without_export_the_measured_files_do_not_stay(plain: Callable[..., Outcome], tmp_path: Path) -> None:
    tools = PlayedTools()
    report = plain(tools, export=False).report
    assert [proof.name for proof in report.proofs] == ["closed_gates", "reloaded", "signature"]
    assert report.measurements == (ENERGY,)
    assert not any(path.exists() for path in tools.exported)
    assert not (tmp_path / "model.onnx").exists()


def test_without_measuring_nothing_is_metered(plain: Callable[..., Outcome]) -> None:
    tools = PlayedTools()
    report = plain(tools, measure=False).report
    assert tools.asked == ["export", "check"]
    assert (report.measurements, report.break_even) == ((), None)
    assert report.flops is not None


def test_an_int8_file_is_written_and_judged_where_it_is_asked_for(
    plain: Callable[..., Outcome], tmp_path: Path
) -> None:
    tools, judge = PlayedTools(), PlayedJudge(answers=(0.9, 0.5, 0.5, 0.4))
    report = plain(tools, int8=True, judge=Judge(judge, 40, "forty images")).report
    assert (tmp_path / "model.int8.onnx").read_bytes() == b"played int8"
    assert tools.asked[-3:] == ["quantise", "judge model.onnx", "judge model.int8.onnx"]
    assert report.int8 is not None
    assert (report.int8.accuracy_before, report.int8.accuracy) == (0.5, 0.4)
    assert report.int8.measurements == (ENERGY,)
    assert report.int8.calibration
    assert report.seconds["int8"] >= 0


def test_a_network_that_can_not_be_quantised_is_delivered_without(
    plain: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(self: PlayedTools, path: Path, out: Path, *others: object) -> None:
        out.write_bytes(b"half")
        raise InputError("ONNX Runtime can't quantise it")

    monkeypatch.setattr(PlayedTools, "quantise", refusing)
    report = plain(PlayedTools(), int8=True).report
    assert report.int8 is None
    assert "there is no int8 file: ONNX Runtime can't quantise it" in report.notes
    assert (tmp_path / "model.onnx").exists()
    assert not (tmp_path / "model.int8.onnx").exists()


def test_without_an_onnx_file_there_is_no_int8_file(plain: Callable[..., Outcome]) -> None:
    tools = PlayedTools()
    assert plain(tools, int8=True, export=False).report.int8 is None
    assert "quantise" not in tools.asked


def test_without_fine_tuning_accuracy_is_taken_twice(plain: Callable[..., Outcome]) -> None:
    judge = PlayedJudge()
    accuracy = plain(judge=Judge(judge, 1, "one")).report.accuracy
    assert accuracy is not None
    assert (accuracy.before, accuracy.cut, accuracy.finetuned) == (0.9, 0.5, None)


@pytest.mark.parametrize(("score", "draws"), [("magnitude", None), ("ntk-sap", 5), ("crop+ntk_sap", 5)])
def test_draws_are_named_where_there_were_any(
    plain: Callable[..., Outcome], score: str, draws: int | None
) -> None:
    assert plain(scoring=Scoring(score)).report.draws == draws


def test_a_target_that_no_steps_hit_is_noted(tmp_path: Path) -> None:
    """Channels leave in fours: of 20 nodes 7 are asked for, 4 go."""

    class Grouped(nn.Sequential):
        pass

    model = Grouped(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 1, groups=4), nn.Flatten(), nn.Linear(48, 3)
    )
    outcome = compress(request_for(model, torch.randn(4, 3, 2, 2), 0.35), tmp_path)
    assert (outcome.report.nodes.before, outcome.report.nodes.after) == (20, 16)
    assert outcome.report.nodes.removed == pytest.approx(0.2)
    assert outcome.report.nodes.asked == 0.35
    assert any(note.startswith("3 of 7 nodes asked for stay") for note in outcome.report.notes)


# ---- what is refused, and when


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["stem.weight", "bn0.running_var", "head.bias"])
def test_a_network_that_is_not_finite_is_refused(
    plain: Callable[..., Outcome], tmp_path: Path, where: str, value: float
) -> None:
    model = residual()
    model.state_dict()[where].view(-1)[0] = value
    with pytest.raises(InputError, match=f"{where} holds NaN or infinite"):
        compress(replace(request_for(residual(), example(TinyResidualConcat)), model=model), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_target_writes_nothing(plain: Callable[..., Outcome], tmp_path: Path) -> None:
    with pytest.raises(TargetUnreachableError):
        plain(nodes=0.99)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_cut_is_seen_before_anything_is_built_on_it(
    plain: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def permuting(*args: Any) -> nn.Module:
        small = shrink(*args)
        with torch.no_grad():
            weight = small.get_parameter("mix.weight")
            weight[:, [0, 1]] = weight[:, [1, 0]]
        return small

    def never(_: nn.Module) -> None:
        raise AssertionError("fine-tuned a network that was cut wrongly")

    monkeypatch.setattr(pipeline, "shrink", permuting)
    with pytest.raises(ProofFailedError, match=r"closed_gates failed: .* of the spread \(allowed 1e-09\)"):
        plain(model=residual(), finetune=never, nodes=0.4)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_is_seen(
    plain: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrongly(folder: Path, small: nn.Module, *args: Any, **options: Any) -> None:
        other = copy.deepcopy(small)
        with torch.no_grad():
            other.get_parameter("0.weight")[0, 0] += 1e-2
        save_weights_and_plan(folder, other, *args, **options)

    monkeypatch.setattr(delivery, "save_weights_and_plan", wrongly)
    with pytest.raises(ProofFailedError, match="reloaded failed: error"):
        plain()
    assert not (tmp_path / "report.json").exists()


def test_a_failed_onnx_proof_ends_the_run(plain: Callable[..., Outcome], tmp_path: Path) -> None:
    tools = PlayedTools(checked=replace(CHECKED, passed=False, error=0.5))
    with pytest.raises(ProofFailedError, match=r"onnx failed: error 5\.0e-01 \(allowed 0\.0001\)"):
        plain(tools)
    assert "measure" not in tools.asked
    assert not (tmp_path / "report.json").exists()


def test_a_fine_tuning_that_changes_the_outputs_shape_is_seen(plain: Callable[..., Outcome]) -> None:
    def cut_the_head(small: nn.Module) -> None:
        small.add_module("4", nn.Linear(small.get_parameter("4.weight").shape[1], 2))

    with pytest.raises(ProofFailedError):
        plain(finetune=cut_the_head)


# ---- the same again


def run_of(folder: Path, seed: int = 3) -> Outcome:
    torch.manual_seed(1)
    model = residual()
    scoring = Scoring("ntk_sap+crop", seed=seed, draws=2, steps=2)
    return compress(request_for(model, example(TinyResidualConcat), 0.4, scoring=scoring), folder)


def test_the_same_seed_gives_plan_scores_and_weights_bit_for_bit(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = run_of(tmp_path / "one")
    torch.rand(7)  # whatever the global random state is
    two = run_of(tmp_path / "two")
    assert all(torch.equal(one.plan.keep[g], two.plan.keep[g]) for g in one.plan.keep)
    assert all(torch.equal(one.scores.values[g], two.scores.values[g]) for g in one.scores.values)
    first, second = one.model.state_dict(), two.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first | second)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_another_thread_count_gives_the_same_plan_but_for_near_ties(tmp_path: Path) -> None:
    outcomes = []
    for count in (1, 2):
        torch.set_num_threads(count)
        folder = tmp_path / str(count)
        folder.mkdir()
        torch.manual_seed(1)
        outcomes.append(compress(request_for(residual(), example(TinyResidualConcat), 0.4), folder))
    one, two = outcomes
    scores = torch.cat([one.scores.values[g] for g in one.scores.values])
    other = torch.cat([two.scores.values[g] for g in one.scores.values])
    near = 1e-5 * float(scores.max())
    assert torch.allclose(scores, other, rtol=0, atol=near)
    differs = torch.cat([one.plan.keep[g] != two.plan.keep[g] for g in one.scores.values])
    if differs.any():
        assert float(scores[differs].max() - scores[differs].min()) <= 2 * near


def test_the_cut_is_proven_then_mended_and_what_is_mended_goes_out(tmp_path: Path) -> None:
    """Wide enough that half of its units say what all of them do; accuracy is taken three times."""
    torch.manual_seed(4)
    model, x = mlp(), torch.randn(120, 5)
    judge, told = PlayedJudge(), list[str]()
    request = request_for(
        model,
        x,
        scoring=Scoring("ntk_sap+crop", trained=True, draws=2, steps=2),
        correction=reconstruction_on("least-squares", (x,), rechooses=True),
        judge=Judge(judge, 40, "forty images"),
    )
    before = snapshot(model)
    outcome = compress(request, tmp_path, PlayedTools(), told.append)
    assert changed(before, snapshot(model)) == []
    dense, cut, mended = judge.judged
    assert (dense, mended) == (model, outcome.model)
    assert outcome.report.accuracy == Accuracy(0.9, 0.5, None, 40, "forty images", mended=0.8)
    assert told.index("proving the cut") < told.index("mending") < told.index("taking the accuracy")
    raw = shrink(model, outcome.groups, outcome.plan)
    for name, tensor in raw.state_dict().items():
        assert torch.equal(tensor, cut.state_dict()[name])
    with torch.no_grad():
        off = [float((net(x) - model(x)).square().mean()) for net in (cut, mended)]
    assert off[1] < off[0]
    assert sum("mended by least-squares" in note for note in outcome.report.notes) == 1
    assert sum("say how wide groups stay" in note for note in outcome.report.notes) == 1


def test_a_correction_that_does_not_help_leaves_the_network_as_it_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = mlp(), torch.randn(40, 5)
    monkeypatch.setattr(mending, "distance", lambda *_: 1.0)
    given = reconstruction_on("least-squares", (x,))
    judge = PlayedJudge()
    request = request_for(model, x, correction=given, judge=Judge(judge, 40, "forty"))
    outcome = compress(request, tmp_path, PlayedTools())
    assert outcome.report.accuracy == Accuracy(0.9, 0.5, None, 40, "forty")
    assert outcome.model is judge.judged[1]
    assert any("not mended" in note for note in outcome.report.notes)
