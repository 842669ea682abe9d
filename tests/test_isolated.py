"""Work in a process of its own: what comes back, and what ends it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor, nn

from exporters.to_onnx import to_onnx
from structprune import channel_groups
from structprune.channels import trace
from structprune.channels.sandbox import Limits, isolated
from structprune.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")

ROOM = Limits(seconds=30, bytes=1 << 30)
MODULE = sys.modules[isolated.__module__]


class Net(nn.Module):
    """Two convs with anybody's code between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), between

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.between(self.a(x)))
        return out


def explode(y: Tensor) -> Tensor:
    """Ask for more memory than anybody gave; pages that nobody writes to cost the machine nothing."""
    return y + torch.empty(6 << 30, dtype=torch.uint8)[:1].float()


def crash(y: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return y


def hang(y: Tensor) -> Tensor:
    time.sleep(60)
    return y


def leave(y: Tensor) -> Tensor:
    raise SystemExit(3)


def ours(code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own."""
    start = "import os, signal, torch\nfrom torch import nn\nfrom structprune import channel_groups\n"
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **more},
    )


NET = """
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
print(len(channel_groups(net, torch.randn(2, 3, 8, 8))))
"""


def test_where_children_are_not_waited_for_it_works_all_the_same() -> None:
    done = ours("signal.signal(signal.SIGCHLD, signal.SIG_IGN)" + NET)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


def test_a_hang_up_that_the_parent_ignores_ends_nothing() -> None:
    code = """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    class Net(nn.Sequential):
        def forward(self, x):
            os.kill(os.getpid(), signal.SIGHUP)
            return super().forward(x)
    net = Net(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    print(len(channel_groups(net, torch.randn(2, 3, 8, 8))))
    """
    done = ours(code)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr


def test_the_environment_has_it_done_here() -> None:
    code = "from structprune.channels.sandbox import Limits, isolated\n"
    code += "print(isolated(os.getpid, Limits(9, 1 << 30), 'looking') == os.getpid())"
    assert ours(code, STRUCTPRUNE_ISOLATED="0").stdout == "True\n"
    assert ours(code).stdout == "False\n"


def test_nothing_is_left_behind() -> None:
    def descendants() -> set[int]:
        return {child.pid for child in psutil.Process().children(recursive=True)}

    before, files = descendants(), psutil.Process().num_fds()
    with pytest.raises(InputError, match=r"not done after 0.5 s"):
        isolated(lambda: subprocess.run(["sleep", "60"], check=False), Limits(0.5, 1 << 30), "sleeping")
    for _ in range(20):
        isolated(lambda: 1, ROOM, "looking")
    assert descendants() == before
    assert psutil.Process().num_fds() == files


def test_threads_may_ask_at_once() -> None:
    filters = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: isolated(lambda: number, ROOM, "looking"), range(40)))
    assert found == list(range(40))
    assert warnings.filters == filters


def test_side_effects_stay_there() -> None:
    seen: list[int] = []
    before = torch.get_num_threads()

    def work() -> int:
        seen.append(1)
        return os.getpid()

    assert isolated(work, ROOM, "looking") != os.getpid()
    assert not seen
    assert torch.get_num_threads() == before


def test_errors_of_ours_come_back_as_they_are() -> None:
    def work() -> None:
        raise InputError("it is not what it was")

    with pytest.raises(InputError, match=r"^it is not what it was$") as caught:
        isolated(work, ROOM, "looking")
    assert "in work" in str(caught.value.__cause__)  # where it was, for --debug


def test_a_network_that_explodes_is_refused() -> None:
    with pytest.raises(InputError, match=r"^reading the channel groups .* takes more than 4.3 GB of memory$"):
        channel_groups(Net(explode), torch.randn(2, 3, 8, 8))


def test_a_network_that_hangs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structprune.channels.LIMITS", Limits(0.5, 1 << 30))
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"^reading the channel groups .* is not done after 0.5 s"):
        channel_groups(Net(hang), torch.randn(2, 3, 8, 8))
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize(("code", "said"), [(crash, r"\(signal 9\)"), (leave, "SystemExit: 3")])
def test_a_network_that_ends_its_process_is_refused(code: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(InputError, match=said):
        channel_groups(Net(code), torch.randn(2, 3, 8, 8))


def test_rules_do_not_take_a_lack_of_memory_for_a_form_they_do_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def greedy(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(trace, "rule_of", lambda *_: greedy)
    with pytest.raises(InputError, match="GB of memory"):
        channel_groups(Net(torch.relu), torch.randn(2, 3, 8, 8))


def test_without_a_process_of_its_own_it_works_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    assert isolated(os.getpid, ROOM, "looking") == os.getpid()
    assert len(channel_groups(Net(torch.relu), torch.randn(2, 3, 8, 8))) == 1


@pytest.mark.parametrize("stuck", [1, 2])
def test_a_copy_that_is_stuck_is_made_once_more(
    stuck: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process is that was copied while another thread held a lock."""
    monkeypatch.setattr(MODULE, "STALLED", 1.0)

    def work() -> str:
        copies = len(list(tmp_path.iterdir()))
        (tmp_path / str(copies)).touch()
        if copies < stuck:
            threading.Event().wait()
        return "done"

    if stuck == 1:
        assert isolated(work, Limits(60, 1 << 30), "waiting") == "done"
    else:
        with pytest.raises(InputError, match="waiting is not done after 4 s"):
            isolated(work, Limits(4, 1 << 30), "waiting")
    assert len(list(tmp_path.iterdir())) == 2


def test_what_computes_is_not_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "STALLED", 1.0)

    def work() -> int:
        (tmp_path / str(len(list(tmp_path.iterdir())))).touch()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            pass
        return len(list(tmp_path.iterdir()))

    assert isolated(work, Limits(60, 1 << 30), "computing") == 1


class Left:
    """Garbage that only the collector finds, and that says which process ended it."""

    def __init__(self, said: Path, held: object = None) -> None:
        self.me, self.said, self.held = self, said, held

    def __del__(self) -> None:
        (self.said / str(os.getpid())).touch()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Garbage of this test stays until it is asked for."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_garbage_is_left_to_the_process_that_made_it(tmp_path: Path, uncollected: None) -> None:
    Left(tmp_path)
    assert isinstance(isolated(gc.collect, ROOM, "collecting"), int)
    assert list(tmp_path.iterdir()) == []
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


def test_a_session_that_nobody_holds_does_no_harm(tmp_path: Path, uncollected: None) -> None:
    """Its destructor would wait for threads that a copy of this process doesn't have, or crash."""
    import onnxruntime

    path = to_onnx(nn.Linear(4, 2), (torch.ones(2, 4),), tmp_path / "model.onnx").path
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: torch.ones(2, 4).numpy()})
    Left(tmp_path, session)
    del session
    assert isinstance(isolated(gc.collect, ROOM, "collecting"), int)


def test_its_own_garbage_is_collected(tmp_path: Path, uncollected: None) -> None:
    def work() -> tuple[bool, int]:
        Left(tmp_path)
        gc.collect()
        return gc.isenabled(), len(list(tmp_path.iterdir()))

    assert isolated(work, ROOM, "collecting") == (True, 1)
    assert not gc.isenabled()


class Mute(BaseException):
    """Anybody's, that can't say what it is."""

    def __str__(self) -> str:
        raise ValueError


class UnsendableError(InputError):
    """One of ours, by its base, that is not to be had outside of its process."""

    def __reduce__(self) -> str:
        raise TypeError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (Mute(), "Mute: no message"),
        (UnsendableError("it can't be sent"), "it can't be sent"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_ends_the_work_is_a_sentence(
    error: BaseException, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    with pytest.raises(InputError, match=said):
        isolated(work, ROOM, "working")
    assert capfd.readouterr().err == ""


def test_signals_are_no_longer_held_back_in_either_process() -> None:
    def blocked() -> set[int]:
        return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}

    before = blocked()
    assert isolated(blocked, ROOM, "looking") - before == set()
    assert blocked() == before
