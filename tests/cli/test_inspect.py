"""``structprune inspect`` and the options that leave layers out, from the shell."""

from __future__ import annotations

import pytest

from tests.cli.command import Command


def test_sizes_are_estimated_for_nothing_half_and_all_that_can_go(cli: Command) -> None:
    document = cli("inspect", "structprune:mlp", "--json").done().document
    none, half, most = document["estimates"]
    assert none["nodes"] == 0
    assert none["parameters"] == half["parameters"] + (none["disk"] - half["disk"]) // 4
    assert half["nodes"] == pytest.approx(most["nodes"] / 2, abs=0.01)
    assert most["nodes"] == pytest.approx(document["reachable"][1], abs=0.01)
    for smaller, larger in ((half, none), (most, half)):
        assert smaller["parameters"] < larger["parameters"]
        assert smaller["flops"] < larger["flops"]
        assert smaller["disk"] < larger["disk"]
    assert none["disk"] == 4 * none["parameters"]


def test_the_table_names_what_was_left_out(cli: Command) -> None:
    shown = cli("inspect", "cifar_resnet20", "--skip", "layer3*").done().out
    assert "left out by --skip layer3*" in shown
    assert "MB on disk" in shown


def test_layers_that_were_left_out_are_whole_afterwards(cli: Command) -> None:
    command = ["compress", "structprune:mlp", "--nodes", "0.3", "--score", "filter_norm", "--no-measure"]
    command += ["--no-export", "--json", "-o", "out"]
    first, *others = cli("inspect", "structprune:mlp", "--json").done().document["groups"]
    report = cli(*command, "--skip", first["name"]).done().document
    before, after = report["widths"][first["name"]]
    assert before == after
    assert {"layer": first["name"], "reason": f"it was left out by --skip {first['name']}"} in report[
        "protected"
    ]
    assert any(report["widths"][g["name"]][1] < g["size"] for g in others)


@pytest.mark.parametrize("option", ["--skip", "--only"])
@pytest.mark.parametrize("verb", [("inspect",), ("compress", "--nodes", "0.3", "--no-measure")])
def test_a_pattern_that_matches_nothing_is_a_mistake(
    cli: Command, verb: tuple[str, ...], option: str
) -> None:
    name, *more = verb
    cli(name, "structprune:mlp", *more, option, "nowhere.*").refused(
        2, f"{option} nowhere.*", "matches no layer"
    )
