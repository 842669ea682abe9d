"""Code of a network that ends the program, and output that goes astray."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from structprune.cli import console as shell
from structprune.cli import streams
from tests.cli.command import Command, contents, environment, in_own_process
from tests.cli.networks import QUICK

NETWORKS = """
import os
import subprocess
import sys

from torch import nn


class Odd(BaseException):
    def __str__(self):
        raise ValueError


def sys_exit():
    sys.exit(0)


def quits():
    quit()


def os_exit():
    os._exit(0)


def posix_exit():
    import posix

    posix._exit(0)


def interrupts():
    raise KeyboardInterrupt


def odd():
    raise Odd


class Net(nn.Sequential):
    between = None

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 4))

    def forward(self, x):
        if self.between is not None:
            self.between()
        return super().forward(x)


def says():
    print("a library says hello")
    os.write(1, b"below Python\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"])


def prints_late():
    import atexit

    atexit.register(print, "at the end")
    return prints()


def prints():
    says()
    network = Net()
    network.between = lambda: print("in a pass")
    return network
"""
ENDS = ("sys_exit", "quits", "os_exit", "posix_exit", "interrupts", "odd")
NETWORKS += "".join(
    f"\n\ndef in_{name}():\n    network = Net()\n    network.between = {name}\n    return network\n"
    for name in ENDS
)
SIZE = ("--input-size", 3, 8, 8)


@pytest.fixture
def networks(here: Path) -> Iterator[Path]:
    (here / "ends.py").write_text(NETWORKS)
    yield here
    sys.modules.pop("ends", None)


KINDS = dict(
    zip(
        ENDS,
        ("SystemExit", "SystemExit", "SystemExit", "SystemExit", "KeyboardInterrupt", "Odd"),
        strict=True,
    )
)


@pytest.mark.parametrize("factory", ENDS)
def test_a_factory_that_ends_the_program(factory: str, cli: Command, networks: Path) -> None:
    before = contents(networks)
    for name in (factory, f"in_{factory}"):
        sentence = cli("compress", f"ends:{name}", "--nodes", 0.3, *QUICK, *SIZE).refused(1, KINDS[factory])
        assert "ends.py, line" in sentence
    assert contents(networks) == before


@pytest.mark.parametrize(
    "verb",
    [
        ("inspect",),
        ("score", "--score", "magnitude"),
        ("export", "-o", "network.onnx"),
        ("pareto", "--score", "magnitude"),
        ("measure",),
    ],
    ids=lambda verb: str(verb[0]),
)
def test_a_forward_pass_that_ends_the_program_in_any_verb(
    verb: tuple[str, ...], cli: Command, networks: Path
) -> None:
    name, *options = verb
    cli(name, "ends:in_os_exit", *options, *SIZE).refused(1, "SystemExit", "ends.py")


def test_the_debugger_gets_a_traceback_and_no_success(cli: Command, networks: Path) -> None:
    with pytest.raises(Exception, match="SystemExit"):
        cli("compress", "ends:sys_exit", "--nodes", 0.3, *QUICK, *SIZE, "--debug")


def test_a_copy_of_the_process_ends_as_it_wants(cli: Command, networks: Path) -> None:
    from structprune.cli.foreign import exits_caught

    before = os._exit
    with exits_caught():
        child = os.fork()
        if not child:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        with pytest.raises(SystemExit):
            os._exit(7)
    assert os._exit is before


def test_what_a_network_prints_is_no_part_of_the_document(networks: Path) -> None:
    command = ("compress", "ends:prints_late", "--nodes", 0.3, *QUICK, *SIZE, "--json")
    finished = in_own_process(networks, *command).done()
    assert finished.document["model"] == "prints_late"
    printed = finished.err.splitlines()
    for line in ("a library says hello", "below Python", "from a child", "in a pass", "at the end"):
        assert line in printed


def test_what_a_network_prints_under_a_caller(cli: Command, networks: Path) -> None:
    finished = cli("compress", "ends:prints", "--nodes", 0.3, *QUICK, *SIZE, "--json").done()
    assert finished.document["model"] == "prints"
    assert "in a pass" in finished.err.splitlines()


def test_a_closed_output_where_the_result_is_written(here: Path) -> None:
    script = 'exec "$0" -m structprune score structprune:mlp --score magnitude -o out.json >&-'
    command = ["sh", "-c", script, sys.executable]
    done = subprocess.run(
        command, cwd=here, env=environment(), stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("- ") for line in done.stderr.splitlines())
    assert (here / "out.json").is_file()


class Refusing(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, _: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "written", "code"),
    [
        (errno.EPIPE, True, 0),
        (errno.EPIPE, False, 1),
        (errno.EBADF, True, 0),
        (errno.EBADF, False, 1),
        (errno.ENOSPC, True, 1),
        (errno.ENOSPC, False, 1),
    ],
)
@pytest.mark.parametrize("say", [shell.print_line, shell.print_json])
def test_an_output_that_takes_no_more(
    number: int, written: bool, code: int, say: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def verb() -> None:
        if written:
            shell.written()
        say("done")

    refusing = Refusing(number)
    monkeypatch.setattr(sys, "stdout", refusing)
    with pytest.raises(SystemExit) as ended:
        shell.guarded(verb)()
    assert (ended.value.code or 0) == code
    assert sys.stdout is refusing
    assert streams.results() is refusing


def test_errors_that_nobody_reads_do_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Refusing(errno.EPIPE))
    with shell.speaking(quiet=False) as say:
        say("reading")
        say("cutting")


def test_a_current_folder_that_is_gone(cli: Command, here: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        cli("compress", "structprune:mlp", "--nodes", 0.3, "-o", here / "result").refused(
            1, "current folder", "gone"
        )
    finally:
        os.chdir(here)
