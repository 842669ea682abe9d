from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from structprune.choices import Accumulate
from structprune.errors import InputError
from structprune.pruning.gates import gate_weights
from structprune.scoring.fusion import conserved, fuse, ranks, within_groups
from structprune.scoring.sampling import Batch, Sampling, accumulate, with_drawn_labels
from structprune.scoring.scores import Scores, finished, per_channel
from tests.criteria.settings import gated, network, sampling

pieces = st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=5), min_size=1, max_size=4)


def tensors(rows: list[list[int]]) -> dict[str, Tensor]:
    return {f"gate{i}": torch.tensor(row, dtype=torch.float32) for i, row in enumerate(rows)}


@given(pieces)
@settings(max_examples=200, deadline=None)
def test_a_rank_is_the_mean_place_among_all_scores(rows: list[list[int]]) -> None:
    everything = sorted(x for row in rows for x in row)
    for name, ranked in ranks(tensors(rows)).items():
        for value, rank in zip(rows[int(name[4:])], ranked.tolist(), strict=True):
            places = [place for place, x in enumerate(everything, start=1) if x == value]
            assert rank == pytest.approx(sum(places) / len(places) / len(everything), rel=1e-6)


@given(pieces, st.floats(0.01, 100), st.floats(-10, 10))
@settings(max_examples=100, deadline=None)
def test_ranks_do_not_depend_on_scale_or_offset(rows: list[list[int]], scale: float, offset: float) -> None:
    values = {name: value.double() for name, value in tensors(rows).items()}
    moved = {name: value * scale + offset for name, value in values.items()}
    before, after = ranks(values), ranks(moved)
    assert all(torch.equal(before[name], after[name]) for name in values)


def test_ranks_keep_the_shape_of_weights() -> None:
    ranked = ranks({"a": torch.tensor([[4.0, 1.0], [2.0, 3.0]]), "b": torch.tensor([5.0])})
    torch.testing.assert_close(ranked["a"], torch.tensor([[0.8, 0.2], [0.4, 0.6]]))
    assert ranked["b"].tolist() == [1.0]


def test_a_fusion_is_the_mean_of_ranks_over_the_whole_network() -> None:
    a = Scores({"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([4.0])}, "a")
    b = Scores({"x": torch.tensor([9e6, 1e6]), "y": torch.tensor([5e6])}, "b")
    fused = fuse([a, b])
    torch.testing.assert_close(fused.values["x"], torch.tensor([(1 + 3) / 6, (2 + 1) / 6]))
    torch.testing.assert_close(fused.values["y"], torch.tensor([(3 + 2) / 6]))
    assert fused.criterion == "a+b"


def test_one_score_is_not_ranked() -> None:
    alone = Scores({"x": torch.tensor([1.0, 5.0])}, "a")
    assert fuse([alone]) is alone


@pytest.mark.parametrize(
    ("how", "expected"), [("total", [1.0, 2.0]), ("abs", [4.0, 2.0]), ("square", [10.0, 4.0])]
)
def test_signs_go_before_the_sum_unless_the_total_is_meant(how: Accumulate, expected: list[float]) -> None:
    units = {"total": [[-1.0, 2.0]], "abs": [[1.0, 2.0], [-3.0, 0.0]], "square": [[1.0, 2.0], [-3.0, 0.0]]}
    signed = ({"x": torch.tensor(row)} for row in units[how])
    taken_on = replace(sampling("TinyMLP", network("TinyMLP")), accumulate=how)
    assert accumulate(taken_on, signed, {"x": torch.zeros(2)})["x"].tolist() == expected


def test_batches_are_cut_along_their_samples() -> None:
    batch = Batch((torch.arange(10).reshape(5, 2), torch.arange(5)), torch.arange(5) * 10)
    parts = list(batch.chunks(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert [part.target.tolist() for part in parts] == [[0, 10], [20, 30], [40]]
    assert parts[2].inputs[0].tolist() == [[8, 9]]
    assert parts[2].inputs[1].tolist() == [4]
    assert len(batch) == 5


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
@pytest.mark.parametrize("name", ["TinyMLP", "TinyConvBN"])
def test_terms_sum_to_the_mean_loss_over_all_samples(name: str, chunk: int) -> None:
    model = network(name)
    taken_on = sampling(name, model, chunk=chunk)
    over = gated(name, model, "channels")
    terms = taken_on.terms(over, taken_on.batches)
    x = torch.cat([batch.inputs[0] for batch in taken_on.batches])
    y = torch.cat([batch.target for batch in taken_on.batches])
    model.eval()
    for key, value in (taken_on.statistics or {}).items():
        model.get_buffer(key).copy_(value)
    total = torch.stack([term(over.ones()) for term in terms]).sum()
    torch.testing.assert_close(total, cross_entropy(model(x), y), rtol=1e-12, atol=0)
    assert len(terms) == sum(-(-len(batch) // chunk) for batch in taken_on.batches)


def test_a_mini_batch_is_never_cut_where_it_normalises_itself() -> None:
    model = network("TinyConvBN")
    taken_on = sampling("TinyConvBN", model, chunk=1, batch_norm="batch")
    assert len(taken_on.terms(gated("TinyConvBN", model, "channels"), taken_on.batches)) == 3


@pytest.mark.parametrize(("how", "sizes"), [("total", [3]), ("abs", [1, 1, 1]), ("square", [1, 1, 1])])
def test_units_are_all_batches_or_one_each(how: Accumulate, sizes: list[int]) -> None:
    taken_on = sampling("TinyMLP", network("TinyMLP"), accumulate=how)
    assert [len(unit) for unit in taken_on.units()] == sizes
    assert taken_on.samples == 9


def test_the_callers_forward_runs_the_network() -> None:
    model = network("TinyMLP")
    taken_on = replace(
        sampling("TinyMLP", model),
        forward=lambda f, inputs: f(inputs[0]) * 0,
        loss=lambda output, target: output.square().sum() + len(target),
    )
    (term, *_) = taken_on.terms(gated("TinyMLP", model, "channels"), taken_on.batches)
    assert float(term(gated("TinyMLP", model, "channels").ones()).detach()) == pytest.approx(2 * 2 / 9)


def test_the_temperature_divides_every_floating_output() -> None:
    model = network("TinyMLP")
    over = gated("TinyMLP", model, "channels")
    seen: list[dict[str, Tensor]] = []

    def loss(output: dict[str, Tensor], target: Tensor) -> Tensor:
        seen.append(output)
        return output["scores"].square().sum()

    def score(temperature: float) -> Tensor:
        taken_on = replace(
            sampling("TinyMLP", model, chunk=100),
            forward=lambda f, inputs: {"scores": f(*inputs), "count": torch.tensor(4)},
            loss=loss,
            temperature=temperature,
        )
        return torch.stack([term(over.ones()) for term in taken_on.terms(over, taken_on.batches)]).sum()

    torch.testing.assert_close(score(200.0), score(1.0) / 200**2)
    assert all(int(output["count"]) == 4 for output in seen)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_are_refused(broken: float) -> None:
    values = {"good": torch.ones(2), "bad": torch.tensor([1.0, broken]), "worse": torch.tensor([broken])}
    with pytest.raises(InputError, match="the snip score is not finite for bad and 1 more"):
        finished(values, "snip")


def test_finished_scores_are_detached() -> None:
    scores = finished({"x": torch.ones(2, requires_grad=True) * 2}, "snip")
    assert not scores.values["x"].requires_grad
    assert scores.criterion == "snip"


def test_the_score_of_a_channel_is_the_mean_over_its_filter() -> None:
    assert per_channel(torch.arange(12.0).reshape(2, 3, 2, 1)).tolist() == [2.5, 8.5]
    assert per_channel(torch.tensor([[1.0, 3.0]])).tolist() == [2.0]


# ---- how much of each group goes


def slowly(scores: list[float]) -> list[float]:
    """Take the worst away again and again; what is left counts for as much as all did."""
    left, counted = dict(enumerate(scores)), {}
    while left:
        worst = min(left, key=lambda i: (left[i], i))
        counted[worst] = left[worst] * sum(scores) / sum(left.values()) if sum(left.values()) else left[worst]
        del left[worst]
    return [counted[i] for i in range(len(scores))]


@pytest.mark.parametrize(
    "scores", [[1.0, 3.0, 4.0], [5.0, 0.5, 2.0, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0], [7.0]]
)
def test_what_stays_takes_over_what_goes(scores: list[float]) -> None:
    found = conserved({"x": torch.tensor(scores, dtype=torch.float64)})["x"]
    torch.testing.assert_close(found, torch.tensor(slowly(scores), dtype=torch.float64))


def test_the_order_within_a_group_stays() -> None:
    torch.manual_seed(0)
    scores = {name: torch.rand(40) for name in "ab"}
    for name, values in conserved(scores).items():
        assert torch.equal(values.argsort(), scores[name].argsort())
        assert (values >= scores[name] - 1e-6).all()


def test_signed_scores_are_left_alone() -> None:
    signed = {"a": torch.tensor([-1.0, 2.0]), "b": torch.tensor([1.0, 2.0])}
    assert conserved(signed) == signed


def test_uniform_scores_take_the_same_rate_from_every_group() -> None:
    torch.manual_seed(0)
    ranked = within_groups({"small": torch.rand(10), "large": 1e6 * torch.rand(30)})
    everything = torch.cat(list(ranked.values())).sort().values
    for values in ranked.values():
        assert int((values <= everything[19]).sum()) == len(values) // 2


def test_labels_are_drawn_from_what_the_network_predicts() -> None:
    """A head that is sure of one class for each half of the inputs."""
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[50.0, 0.0], [0.0, 50.0], [0.0, 0.0]]))
        model.bias.zero_()
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(8, 1)
    batch = Batch((x,), torch.full((16,), 2))
    taken_on = Sampling((batch,), functional.cross_entropy)
    drawn = with_drawn_labels(gate_weights(model), taken_on)
    assert drawn.batches[0].target.tolist() == [0, 1] * 8
    assert torch.equal(drawn.batches[0].inputs[0], x)


def test_drawn_labels_have_the_shares_of_the_prediction_and_follow_the_seed() -> None:
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.25, 0.75]).log())
    taken_on = Sampling((Batch((torch.zeros(4000, 1),), torch.zeros(4000).long()),), functional.cross_entropy)
    one, again = (with_drawn_labels(gate_weights(model), taken_on).batches[0].target for _ in range(2))
    other = with_drawn_labels(gate_weights(model), replace(taken_on, seed=1)).batches[0].target
    assert float(one.float().mean()) == pytest.approx(0.75, abs=0.03)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_labels_of_what_is_no_classifier_are_refused() -> None:
    taken_on = Sampling((Batch((torch.zeros(4, 2),), torch.zeros(4)),), functional.mse_loss)
    model = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    with pytest.raises(InputError, match="class scores"):
        with_drawn_labels(gate_weights(model), taken_on)


def test_one_criterion_may_say_the_widths_alone() -> None:
    """The second would empty group b; the first takes as many from either, and both say which."""
    wide = Scores({"a": torch.tensor([1.0, 3.0, 5.0, 7.0]), "b": torch.tensor([2.0, 4.0, 6.0, 8.0])}, "wide")
    order = Scores(
        {"a": torch.tensor([9.0, 8.0, 7.0, 6.0]), "b": torch.tensor([1.0, 2.0, 3.0, 4.0])}, "order"
    )
    fused = fuse([order, wide], widths="wide")
    worst = torch.cat(list(fused.values.values())).argsort()[:2].tolist()
    assert fused.criterion == "order+wide"
    assert 4 in worst  # the worst of b for both
    assert fused.values["a"].tolist() == pytest.approx([4 / 8] * 4)  # opposite orders cancel
    assert fused.values["b"].argsort().tolist() == [0, 1, 2, 3]
