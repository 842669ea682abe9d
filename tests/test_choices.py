"""Values that arguments may take: every table of functions has exactly these."""

from __future__ import annotations

from structprune.choices import CHOICES, listed
from structprune.cli.checks import RULES
from structprune.reconstruction import METHODS
from structprune.scoring.losses import WORDS


def test_tables_have_every_value_and_no_other() -> None:
    from exporters.runtime.runners import RUNTIMES
    from exporters.to_onnx import _ATTEMPTS

    assert {*METHODS, "none"} == set(CHOICES["correct"])
    assert set(WORDS) == set(CHOICES["loss"])
    assert set(_ATTEMPTS) == set(CHOICES["exporter"])
    assert {name for name in RUNTIMES if not name.endswith("-copies")} == set(CHOICES["runtime"])


def test_the_shell_takes_what_python_takes() -> None:
    for argument, values in CHOICES.items():
        if argument == "allocation":  # of Scoring alone
            continue
        rule = RULES[argument]
        assert rule.expected == listed(argument)
        for value in values:
            assert rule.holds([value] if argument == "runtime" else value)
        assert not rule.holds(["nothing"] if argument == "runtime" else "nothing")
