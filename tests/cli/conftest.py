from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from structprune.cli import main
from tests.cli.command import Command, Finished, in_own_process
from tests.cli.networks import QUICK, TINY


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a network of the user's own in it; temporary files must be gone at the end."""
    folder, scratch = tmp_path / "here", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    (folder / "tiny.py").write_text(TINY)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch"))  # else among temporary files
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(folder)
    yield folder
    sys.modules.pop("tiny", None)
    assert list(scratch.iterdir()) == []


@pytest.fixture(scope="session")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder, to be copied: half of a multi-layer perceptron."""
    folder = tmp_path_factory.mktemp("halved")
    in_own_process(folder, "compress", "structprune:mlp", "--nodes", 0.5, *QUICK, "-o", "result").done()
    return folder / "result"


@pytest.fixture
def result(halved: Path, here: Path) -> Path:
    """A result folder in the working folder."""
    return shutil.copytree(halved, here / "result")


@pytest.fixture
def cli(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs the command line in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["structprune", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        streams = capsys.readouterr()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Finished(code, streams.out, streams.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
