from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters.probes.batch_time import BLOCKS, batch_time, batch_times, cpu_threads, plan, timed_blocks
from exporters.to_onnx import to_onnx
from structprune.errors import DeviceUnavailableError, UsageError


def wide_and_narrow() -> tuple[nn.Module, nn.Module]:
    """Two networks of which one costs 400 times the other's multiply-adds."""
    wide, narrow = (
        nn.Sequential(nn.Linear(8, w), nn.ReLU(), nn.Linear(w, w), nn.Linear(w, 2)) for w in (1024, 50)
    )
    return wide, narrow


def test_the_blocks_take_turns_warmed_and_in_alternating_order() -> None:
    ran: list[str] = []

    def runner(name: str, seconds: float) -> float:
        ran.append(name)
        return seconds

    blocks = timed_blocks([lambda: runner("a", 0.05), lambda: runner("b", 0.025)], seconds=0.6)
    a, b = plan(0.05), plan(0.025)
    assert ran[:6] == ["a"] * 3 + ["b"] * 3
    block_a, block_b = ["a"] * (a.warm + a.runs), ["b"] * (b.warm + b.runs)
    assert ran[6 : 6 + 2 * len(block_a + block_b)] == block_a + block_b + block_b + block_a
    assert [each.shape for each in blocks] == [(6, a.runs), (6, b.runs)]
    assert [float(each.mean()) for each in blocks] == pytest.approx([0.05, 0.025])


@pytest.mark.parametrize(("once", "blocks"), [(10.0, BLOCKS.start), (0.001, BLOCKS.stop - 1)])
def test_slow_networks_get_fewer_blocks_but_enough(once: float, blocks: int) -> None:
    assert len(timed_blocks([lambda: once], seconds=2.0)[0]) == blocks


def test_a_smaller_network_is_found_faster_in_both_runtimes(tmp_path: Path) -> None:
    models, example = wide_and_narrow(), (torch.randn(1, 8),)
    files = [to_onnx(model, example, tmp_path / f"{i}.onnx").path for i, model in enumerate(models)]
    in_torch = batch_time(*models, example, batch=8, seconds=0.2)
    in_onnx = batch_time(files[0], files[1], example, batch=8, seconds=0.2)
    assert (in_torch.runtime, in_onnx.runtime) == ("torch", "onnxruntime")
    assert in_onnx.extra["provider"] == "CPUExecutionProvider"
    for taken in (in_torch, in_onnx):
        assert taken.ratio is not None
        assert taken.ratio.low > 1
        assert taken.ratio.low <= taken.ratio.value <= taken.ratio.high
        assert "faster" in taken.verdict
        assert (taken.batch, taken.threads, taken.unit) == (8, 1, "ms")
        assert len(taken.dense.samples) == len(taken.pruned.samples) >= BLOCKS.start
        assert taken.dense.median == float(np.median(taken.dense.samples))
        assert float(taken.extra["dense_p5"]) <= float(taken.extra["dense_p95"])


class Witness(nn.Module):
    """Notes how it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, int, bool, bool]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add((len(x), torch.get_num_threads(), self.training, torch.is_grad_enabled()))
        return x


def test_torch_runs_in_evaluation_mode_without_gradients_on_the_threads_stated() -> None:
    model, before = Witness(), torch.get_num_threads()
    with cpu_threads(2):
        batch_times([model], (torch.ones(2, 3),), batch=5, threads=1, seconds=0.01)
        assert torch.get_num_threads() == 2
    assert model.seen == {(5, 1, False, False)}
    assert model.training
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_not_there_is_refused(tmp_path: Path) -> None:
    model, example = nn.Linear(4, 2), (torch.ones(1, 4),)
    path = to_onnx(model, example, tmp_path / "model.onnx").path
    for network in (model, path):
        with pytest.raises(DeviceUnavailableError):
            batch_times([network], example, device="cuda")


def test_a_device_of_another_kind_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="expected one of: cpu, cuda"):
        batch_times([nn.Linear(4, 2)], (torch.ones(1, 4),), device="tpu")
