"""Options that make no sense, refused before torch is imported."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from structprune.choices import CHOICES, listed
from structprune.errors import UsageError
from structprune.limits.parse import QUANTITIES, Limit, read_limits


@dataclass(frozen=True)
class Rule:
    """What an option's value must be.

    Attributes:
        holds: whether a value is allowed.
        expected: what is, in words.
    """

    holds: Callable[[Any], bool]
    expected: str


def _one_of(argument: str) -> Rule:
    return Rule(CHOICES[argument].__contains__, listed(argument))


def _at_least(least: int, what: str = "") -> Rule:
    return Rule(lambda value: value >= least, f"{least} or more{what}")


FRACTION = "a fraction from 0 to below 1"
POSITIVE = Rule(lambda value: 0 < value < math.inf, "a number above 0")

OPSETS = (7, 23)
"""The oldest and the newest version of ONNX's operator set that PyTorch writes."""


def _least(value: Any) -> Any:
    return min(value) if isinstance(value, list) else value


RULES: Mapping[str, Rule] = {
    "accumulate": _one_of("accumulate"),
    "align": Rule(lambda value: value == "auto" or value >= 1, "1 or more"),
    "batch_norm": _one_of("batch_norm"),
    "by": _one_of("by"),
    "batch_size": _at_least(2, " images"),
    "chunk": _at_least(1),
    "classes": _at_least(1),
    "correct": _one_of("correct"),
    "draws": _at_least(1),
    "energy_seconds": POSITIVE,
    "exporter": _one_of("exporter"),
    "finetune": _at_least(0, " epochs"),
    "floor": Rule(lambda value: 0 <= value < 1, FRACTION),
    "epochs": _at_least(1),
    "labels": _one_of("labels"),
    "latest": _at_least(1),
    "loss": _one_of("loss"),
    "lr": POSITIVE,
    "precision": _one_of("precision"),
    "validation": Rule(lambda value: 0 <= value < 1, FRACTION),
    "input_size": Rule(lambda sizes: min(sizes) >= 1, "three sizes of 1 or more"),
    "measure_batch": Rule(lambda sizes: min(sizes) >= 1, "1 or more"),
    "mini_batch": _at_least(2),
    "opset": Rule(lambda value: OPSETS[0] <= value <= OPSETS[1], "{} to {}".format(*OPSETS)),
    "points": _at_least(2),
    "rtol": POSITIVE,
    "samples": _at_least(4, ", since as many are compared"),
    "seed": Rule(lambda value: 0 <= value < 2**63, "a whole number from 0 to below 2^63"),
    "steps": _at_least(1),
    "runtime": Rule(lambda names: set(names) <= {*CHOICES["runtime"]}, listed("runtime")),
    "threads": Rule(lambda counts: _least(counts) >= 1, "1 or more"),
}

NEED_DATA = ("test_data", "finetune", "mean", "std")


def check(asked: Mapping[str, Any]) -> None:
    """Refuse values that make no sense.

    Args:
        asked: option -> value; None where it was not given.

    Raises:
        UsageError: with what was got and what was expected.
    """
    for option, rule in RULES.items():
        value = asked.get(option)
        if option == "align" and isinstance(value, str):
            value = alignment(value, asked.get("profile") is not None)
        if value is not None and not rule.holds(value):
            raise UsageError(f"{_spelled(option)} {_shown(value)}: expected {rule.expected}")
    for option in NEED_DATA:
        if asked.get(option) and asked.get("data", "") is None:
            raise UsageError(f"{_spelled(option)} needs --data")
    if asked.get("correct", "none") not in (None, "none") and asked.get("data") is None:
        raise UsageError(f"--correct {asked['correct']} needs --data")
    if asked.get("int8") and not asked.get("export", True):
        raise UsageError("--int8 is made from the ONNX file; leave --no-export out")


def _spelled(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def alignment(text: str, profiled: bool = False) -> int | str:
    """Read what ``--align`` says: a number of channels, or ``auto``, which alone takes ``--profile``.

    Raises:
        UsageError: it says something else.
    """
    if text != "auto" and not text.removeprefix("-").isdecimal():
        raise UsageError(f"--align {text}: expected a number of channels, 1 or more, or auto")
    if profiled and text != "auto":
        raise UsageError("--profile chooses widths only with --align auto")
    return text if text == "auto" else int(text)


def fraction(text: str, option: str) -> float:
    """Read what an option says that takes a fraction.

    Raises:
        UsageError: it is no fraction from 0 to below 1.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise UsageError(f"{option} {text}: expected {FRACTION}; 0.89 removes 89 %")
    return value


def limits_of(asked: Mapping[str, Any]) -> tuple[Limit, ...]:
    """Read what may be asked to go or to be left.

    Raises:
        UsageError: nothing is asked for, or something that makes no sense.
    """
    weights = asked.get("weights")
    if weights is not None and weights[:1].isalpha():
        raise UsageError(
            f"--weights {weights}: expected how many weights are to go or may be left, as in 0.9 or 2M; "
            "a zoo's trained weights come with --pretrained"
        )
    return read_limits({name: asked.get(name) for name in QUANTITIES})
