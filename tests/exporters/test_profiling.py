"""What is read off measured times: times that follow a rule give the rule back."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from exporters.profiling import cache, chains
from exporters.profiling.chains import Link, by_difference, chain_model, pair_links, pair_times, rest_of
from exporters.profiling.fitting import REFERENCE, SIDES, WIDTHS, kernel_of
from exporters.profiling.probe import points, probe
from structprune.errors import DeviceUnavailableError, UsageError
from structprune.hardware import LayerCall, layer_us
from structprune.hardware.profile import KINDS, DeviceProfile, Machine, Step, this_machine
from tests.device_profiles import made_up

MACHINE = Machine("Test CPU", "TEST")


def ruled(width_in: int, width_out: int, side: int, block: int, divisor: int) -> float:
    """A runtime in blocks: narrow inputs cost four times as much, those off the divisor twice."""
    out = ceil(width_out / block) * block
    pixels = side**2 * 9 / 1e6
    if width_in < block:
        return 1.0 + 50 * width_in * out * pixels
    if width_in % divisor:
        return 1.0 + 25 * width_in * width_out * pixels
    return 1.0 + 12.5 * ceil(width_in / block) * block * out * pixels


def measured(block: int, divisor: int) -> list[Step]:
    """Steps as the probe takes them, of a runtime whose rule is known."""
    pairs = [pair for r, w, s in points("3x3") for pair in ((r, w, s), (w, r, s))]
    return [Step("3x3", i, o, s, ruled(i, o, s, block, divisor)) for i, o, s in pairs]


@pytest.mark.parametrize(("block", "divisor"), [(16, 4), (8, 1), (8, 8), (16, 2), (4, 4)])
def test_a_rule_is_found_again(block: int, divisor: int) -> None:
    kernel = kernel_of("3x3", measured(block, divisor))
    assert (kernel.block, kernel.first, kernel.divisor) == (block, block, divisor)
    profile = DeviceProfile("", "", "", "", "", 1, MACHINE, {"3x3": kernel})
    for i, o, side in [
        (block, block, 20),
        (7 * block, 3 * block + 1, 10),
        (5 * block + 1, 40, 30),
        (3, 64, 9),
    ]:
        us = layer_us(profile, LayerCall("", "3x3", 9, side**2), np.array([float(i)]), np.array([float(o)]))
        assert us[0] == pytest.approx(ruled(i, o, side, block, divisor), rel=0.02)


def test_scatter_of_a_few_percent_hides_no_step() -> None:
    draws = np.random.default_rng(0)
    steps = [
        Step(s.kind, s.inputs, s.outputs, s.side, s.us * draws.uniform(0.97, 1.03)) for s in measured(16, 4)
    ]
    kernel = kernel_of("3x3", steps)
    assert (kernel.block, kernel.first, kernel.divisor) == (16, 16, 4)


def test_the_tried_widths_lie_on_and_off_every_block() -> None:
    for block in (4, 8, 16, 32):
        assert any(width % block == 0 for width in WIDTHS)
        assert any(width % block == 1 for width in WIDTHS)
        assert any(width % block == block - 1 for width in WIDTHS)
    assert max(WIDTHS) == REFERENCE


@pytest.mark.parametrize("kind", KINDS)
def test_chains_run_and_keep_the_size_of_what_passes(kind: str) -> None:
    session = ort.InferenceSession(chain_model(pair_links(kind, 16, 5), 8, "float32"))
    shape = [64, 16] if kind == "linear" else [1, 16, 8, 8]
    (output,) = session.run(
        None, {"input": np.random.default_rng(0).standard_normal(shape).astype("float32")}
    )
    assert output.shape == tuple(shape)
    assert 0.01 < output.std() < 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_timed_on_either_side(kind: str) -> None:
    times = pair_times(kind, 16, 17, 14, device="cpu", precision="float32", threads=1)
    assert times.writing > 0
    assert times.reading > 0


def few(kind: str) -> list[tuple[int, int, int]]:
    """Points of a probe that takes a moment."""
    return [(REFERENCE, width, SIDES[0]) for width in (12, 16, 17, 24, 32, 64)]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_record_the_layers_in_question_are_what_a_chain_has_beyond_the_rest(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = pair_links(kind, 16, 5)
    rest = rest_of(links)
    times = {"chain": 1e-6 * sum(_played(link) for link in links), "rest": 1e-6 * sum(map(_played, rest))}
    monkeypatch.setattr(chains, "onnx_runner", lambda session, _: lambda: times[session])
    found = by_difference("chain", "rest", np.zeros((1, 16, 8, 8), np.float32), links)
    asked = [
        link
        for link in links
        if link.kind == "depthwise" or (kind != "depthwise" and 5 in (link.inputs, link.outputs))
    ]
    assert found.writing == found.reading == pytest.approx(sum(map(_played, asked)) / len(asked))
    ort.InferenceSession(chain_model(rest, 8, "float32"))


def _played(link: Link) -> float:
    return 7.0 if link.kind == "depthwise" else link.inputs * link.outputs / 10


def test_a_probe_says_what_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.profiling.probe.points", few)
    said: list[str] = []
    profile = probe(MACHINE, say=said.append)
    assert (profile.runtime, profile.version, profile.machine) == ("onnxruntime", ort.__version__, MACHINE)
    assert (profile.provider, profile.precision, profile.threads) == ("CPUExecutionProvider", "float32", 1)
    assert set(profile.kernels) == set(KINDS)
    assert {step.kind for step in profile.steps} == set(KINDS)
    assert len(said) == len(KINDS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_without_cuda_it_says_so() -> None:
    with pytest.raises(DeviceUnavailableError, match="cuda"):
        probe(MACHINE, device="cuda")
    with pytest.raises(DeviceUnavailableError):
        this_machine("cuda")
    with pytest.raises(UsageError, match="float32, float16"):
        probe(MACHINE, precision="int4")


# ------------------------------------------------------------------------------------------------ the cache


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """The machines that were probed; the probe itself is played."""
    asked: list[Machine] = []

    def played(machine: Machine, **_: object) -> DeviceProfile:
        asked.append(machine)
        return made_up(machine)

    monkeypatch.setattr(cache, "probe", played)
    return asked


def test_a_machine_is_probed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probed: list[Machine]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = cache.own_profile(MACHINE), cache.own_profile(MACHINE)
    assert first == second == made_up(MACHINE)
    assert probed == [MACHINE]
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert kept.is_relative_to(tmp_path / "structprune" / "profiles")
    assert ort.__version__ in kept.name
    other = Machine("Test CPU", "OTHER")
    assert cache.own_profile(other).machine == other
    cache.own_profile(MACHINE, threads=2)
    assert probed == [MACHINE, other, MACHINE]
    kept.write_text("{")  # whatever happened to it
    cache.own_profile(MACHINE)
    assert len(probed) == 4


def test_a_cache_that_cant_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probed: list[Machine]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cache.own_profile(MACHINE) == made_up(MACHINE)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_relative_cache_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = cache.cache_file(MACHINE, "cpu", "float32", 1)
    assert found is not None
    assert found.is_relative_to(tmp_path / ".cache")
