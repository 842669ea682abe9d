from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from structprune.data import Batches, ImageSet, read_images, to_batches
from structprune.data.images import Indices
from structprune.errors import DeviceUnavailableError, InputError, UsageError
from structprune.training import Recipe, evaluate, finetune
from structprune.training import finetuning as loop
from structprune.training.optimiser import one_cycle
from tests.networks import TinyConvBN


def bright_channel(count: int, batch_size: int = 16) -> Batches:
    """Images of three classes: which colour is the brightest."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 128, (count, 8, 8, 3), dtype=np.uint8)
    pixels[np.arange(count), :, :, labels] += 90
    images = ImageSet(pixels, labels, ("red", "green", "blue"), "colours")
    return to_batches(images, size=(3, 8, 8), mean=(0.3,) * 3, std=(0.2,) * 3, batch_size=batch_size)


class Dropping(nn.Module):
    """Uses the global random state, as dropout does."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.drop(x.flatten(1)))
        return scores


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_it_learns() -> None:
    model, batches = TinyConvBN(), bright_channel(120)
    assert evaluate(model, batches) < 0.7
    finetune(model, batches, 8, recipe=Recipe(lr=0.1))
    assert evaluate(model, batches) > 0.95
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("network", [TinyConvBN, Dropping])
def test_the_seed_decides_and_the_global_random_state_neither_matters_nor_changes(
    network: type[nn.Module],
) -> None:
    start = network()
    runs = []
    for seed, noise in ((1, 0), (1, 99), (2, 0)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        model = copy.deepcopy(start)
        finetune(model, bright_channel(50), 2, seed=seed)
        assert torch.equal(before, torch.get_rng_state())
        runs.append(model)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])
    assert not same(runs[0], start)


def test_steps_are_those_of_plain_sgd_on_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "random_shift", unchanged)
    monkeypatch.setattr(Batches, "batch", double_batch)
    model = TinyConvBN().double()
    expected = copy.deepcopy(model).train()
    batches = bright_channel(32)
    finetune(model, batches, 1, recipe=Recipe(lr=0.1, weight_decay=0.0), mirror=False, seed=3)

    order = torch.randperm(32, generator=torch.Generator().manual_seed(3))
    velocity = [torch.zeros_like(p) for p in expected.parameters()]
    for step, chosen in enumerate((order[:16], order[16:])):
        x, y = double_batch(batches, chosen.numpy())
        loss = nn.functional.cross_entropy(expected(x), y)
        for p, v, g in zip(
            expected.parameters(),
            velocity,
            torch.autograd.grad(loss, list(expected.parameters())),
            strict=True,
        ):
            v.mul_(0.9).add_(g)
            p.data -= 0.1 * one_cycle(step, 2) * (g + 0.9 * v)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def unchanged(images: Tensor, _: torch.Generator) -> Tensor:
    return images


def double_batch(batches: Batches, indices: Indices) -> tuple[Tensor, Tensor]:
    chosen = batches.images.take(indices)
    return batches.preprocessing(chosen).double(), torch.from_numpy(chosen.labels)


def test_progress_counts_every_step_and_a_last_batch_of_one_is_left_out() -> None:
    told: list[tuple[int, int]] = []
    finetune(TinyConvBN(), bright_channel(33), 3, progress=lambda done, steps, _: told.append((done, steps)))
    assert told == [(done, 6) for done in range(1, 7)]


def test_batch_norm_on_single_pixels_survives_a_last_batch_of_one() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    finetune(model, bright_channel(17), 1)
    with pytest.raises(UsageError, match="batch size 1"):
        finetune(model, bright_channel(17, batch_size=1), 1)
    with pytest.raises(InputError, match="too few images"):
        finetune(model, bright_channel(1), 1)


def test_no_epochs_change_only_the_mode() -> None:
    model = TinyConvBN().train()
    before = copy.deepcopy(model)
    finetune(model, bright_channel(20), 0)
    assert same(model, before)
    assert not model.training
    with pytest.raises(UsageError, match="-1 epochs"):
        finetune(model, bright_channel(20), -1)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    model = TinyConvBN()
    with torch.no_grad():
        model.head.weight.fill_(torch.inf)
    with pytest.raises(
        InputError, match=r"the loss became nan in step 1 of 2; try a learning rate below 0\.03"
    ):
        finetune(model, bright_channel(32), 1)
    assert not model.training


def test_labels_without_an_output_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(InputError, match="go up to 2 and the network has 2 outputs"):
        finetune(model, bright_channel(16), 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceUnavailableError, match="device cuda can't be used"):
        finetune(TinyConvBN(), bright_channel(16), 1, device="cuda")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        finetune(TinyConvBN(), bright_channel(16), 1, device="gpu")


def test_only_data_that_allow_it_are_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored: list[int] = []

    def noted(images: Tensor, _: torch.Generator) -> Tensor:
        mirrored.append(len(images))
        return images

    monkeypatch.setattr(loop, "random_mirror", noted)
    digits = read_images("digits").take(np.arange(16))
    tiny_digits = to_batches(digits, size=(1, 8, 8), mean=(0.5,), std=(0.5,))
    finetune(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), tiny_digits, 1)
    finetune(TinyConvBN(), bright_channel(16), 1, mirror=False)
    assert mirrored == []
    finetune(TinyConvBN(), bright_channel(16), 1)
    assert mirrored == [16]


def test_real_images(shared_data: Path) -> None:
    images = read_images(shared_data / "cifar10_mini.npz")
    batches = to_batches(images, size=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3, batch_size=64)
    model = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
    losses: list[float] = []
    finetune(model, batches, 6, progress=lambda _, __, loss: losses.append(loss))
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
