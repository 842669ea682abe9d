"""Options as dataclasses: one option a field, and every verb's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, get_args

import pytest
import typer

from structprune.cli.commands import compress, export, measure, pareto, profile, score, train
from structprune.cli.commands import inspect as inspecting
from structprune.cli.panels import flat, takes_options

VERBS: tuple[Callable[..., None], ...] = (
    compress.compress,
    export.export,
    inspecting.inspect,
    measure.measure,
    pareto.pareto,
    profile.profile,
    score.score,
    train.train,
)


@dataclass(frozen=True)
class Inner:
    """Options under a title."""

    PANEL: ClassVar[str] = "Inner"
    size: Annotated[int, typer.Option(help="How large.")] = 3
    names: Annotated[list[str], typer.Option(help="Which.")] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Options of a verb."""

    fast: Annotated[bool, typer.Option(help="Whether.")] = False
    inner: Inner


@takes_options
def verb(network: str, options: Outer) -> tuple[str, Outer]:
    return network, options


def test_the_parser_sees_one_option_a_field() -> None:
    parameters = inspect.signature(verb).parameters
    assert list(parameters) == ["network", "fast", "size", "names"]
    assert [parameters[name].default for name in ("fast", "size", "names")] == [False, 3, []]
    _, option = get_args(parameters["size"].annotation)
    assert (option.help, option.rich_help_panel) == ("How large.", "Inner")


def test_the_verb_gets_its_dataclasses() -> None:
    found = verb(network="x", fast=True, size=5, names=["a"])
    assert found == ("x", Outer(fast=True, inner=Inner(5, ["a"])))
    assert flat(found[1]) == {"fast": True, "size": 5, "names": ["a"]}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_every_option_of_a_verb_has_a_help_text_and_a_name_of_its_own(verb: Callable[..., None]) -> None:
    parameters = inspect.signature(verb).parameters
    for name, parameter in parameters.items():
        _, option = get_args(parameter.annotation)
        assert option.help, name
    assert {"json", "debug"} <= set(parameters)
