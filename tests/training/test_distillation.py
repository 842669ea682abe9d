from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from structprune.training import Recipe, evaluate, finetune
from structprune.training.distillation import CLIP, TAUGHT, TEMPERATURE, labelled, soft_loss, taught_by
from structprune.training.optimiser import one_cycle
from tests.networks import TinyConvBN, example
from tests.oracles.state import changed, snapshot
from tests.training.test_loop import bright_channel, same


def obvious(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = ((z / TEMPERATURE).softmax(1) for z in (teacher, student))
    return TEMPERATURE * (p * (p.log() - q.log())).sum(1).mean()


def test_the_soft_loss_is_the_divergence_of_the_shares() -> None:
    student, teacher = torch.randn(2, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(soft_loss(student, teacher), obvious(student, teacher))
    assert soft_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [1, 1e2, 1e6])
def test_no_scores_however_large_count_for_more_than_a_label_does(size: float) -> None:
    student = torch.randn(6, 5, requires_grad=True)
    loss = soft_loss(student, size * torch.randn(6, 5))
    (found,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert (6 * found).abs().max() <= 1  # a mean over six images


def test_both_losses_are_weighed() -> None:
    student, teacher, x = TinyConvBN(), TinyConvBN().eval(), example(TinyConvBN)
    labels = torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        scores, said = student.eval()(x), teacher(x)
    expected = TAUGHT * obvious(scores, said) + (1 - TAUGHT) * functional.cross_entropy(scores, labels)
    torch.testing.assert_close(taught_by(teacher)(student, x, labels).detach(), expected)
    torch.testing.assert_close(
        labelled(student, x, labels).detach(), functional.cross_entropy(scores, labels)
    )


def trained() -> nn.Module:
    model = TinyConvBN()
    finetune(model, bright_channel(120), 8, recipe=Recipe(lr=0.1))
    return model


def test_a_student_learns_what_the_teacher_says_and_the_teacher_stays_as_it_is() -> None:
    teacher, batches = trained().train(), bright_channel(60)
    student = TinyConvBN()
    before = snapshot(teacher)
    finetune(student, batches, 10, recipe=Recipe(lr=0.1), teacher=teacher)
    assert changed(before, snapshot(teacher)) == []
    assert evaluate(student, batches) > 0.9
    images, _ = next(iter(batches))
    alone = TinyConvBN()
    finetune(alone, batches, 10, recipe=Recipe(lr=0.1))
    with torch.no_grad():
        said = teacher.eval()(images)
        apart = [float(soft_loss(net(images), said)) for net in (student, alone)]
    assert apart[0] < apart[1]


def test_it_does_not_blow_up_where_scores_are_huge() -> None:
    teacher, student = trained(), TinyConvBN()
    with torch.no_grad():
        for net in (teacher, student):
            net.get_parameter("head.weight").mul_(1e4)
    losses: list[float] = []
    finetune(
        student, bright_channel(60), 3, teacher=teacher, progress=lambda _, __, loss: losses.append(loss)
    )
    assert losses[-1] < losses[0]


def test_gradients_are_clipped_where_a_teacher_teaches() -> None:
    """Without momentum, a step is as long as the rate times the gradient."""
    plain = Recipe(lr=1.0, momentum=0.0, weight_decay=0.0)
    start = TinyConvBN()
    with torch.no_grad():
        start.get_parameter("head.weight").mul_(1e3)
    student, alone = copy.deepcopy(start), copy.deepcopy(start)
    finetune(student, bright_channel(16), 1, recipe=plain, teacher=trained())
    finetune(alone, bright_channel(16), 1, recipe=plain)
    rate = one_cycle(0, 1)
    assert _moved(start, student) == pytest.approx(rate * CLIP, rel=1e-3)
    assert _moved(start, alone) > 2 * rate * CLIP


def _moved(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return float(sum((x - y).detach().square().sum() for x, y in pairs) ** 0.5)


def test_without_a_teacher_a_recipe_without_clipping_clips_nothing() -> None:
    one, other = TinyConvBN(), TinyConvBN()
    other.load_state_dict(one.state_dict())
    finetune(one, bright_channel(32), 1)
    finetune(other, bright_channel(32), 1, recipe=Recipe(clip=1e9))
    assert same(one, other)
