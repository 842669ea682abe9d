"""Help, version, and that both come without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from structprune import __version__
from tests.cli.command import Command, environment

VERBS = (
    "compress", "pareto", "inspect", "score", "export", "measure", "profile", "report", "methods", "doctor",
)  # fmt: skip


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_verb(flag: str, cli: Command) -> None:
    shown = cli(flag).done()
    assert all(verb in shown.out for verb in VERBS)
    assert shown.err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(verb: str, cli: Command) -> None:
    shown = cli(verb, "--help").done()
    assert f"structprune {verb}" in shown.out
    assert "--json" in shown.out


def test_version(cli: Command) -> None:
    assert cli("--version").done().out == f"structprune {__version__}\n"


HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "codecarbon", "sklearn", "torchvision")
PROGRAM = f"""
import sys
from structprune.cli import main
try:
    main()
finally:
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["compress", "--help"], 0),
        (["--version"], 0),
        (["compress", "resnet18", "--nodes", "1.5"], 2),
        (["compress", "resnet18", "--nodes", "0.5", "--finetune", "1"], 2),
        (["compress", "resnet18", "--latency", "2"], 2),
        (["pareto", "resnet18", "--points", "1"], 2),
    ],
    ids=str,
)
def test_it_answers_without_torch(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == "[]"
