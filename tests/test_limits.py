from __future__ import annotations

import pytest

from structprune.errors import UsageError
from structprune.limits.parse import QUANTITIES, Limit, fraction_of_nodes, nodes_of, read_limit, read_limits

READ: dict[tuple[str, str | float], tuple[str, float, str]] = {
    ("nodes", "0.89"): ("removed", 0.89, "0.89"),
    ("nodes", 0): ("removed", 0.0, "0"),
    ("nodes", "89 %"): ("removed", 0.89, "0.89"),
    ("params", "90%"): ("removed", 0.9, "0.9"),
    ("params", 0.9): ("removed", 0.9, "0.9"),
    ("params", "2M"): ("left", 2e6, "2M"),
    ("params", 6000): ("left", 6000.0, "6000"),
    ("flops", "1000"): ("left", 1000.0, "1000"),
    ("weights", "1.5 m"): ("left", 1.5e6, "1.5m"),
    ("flops", "300M"): ("left", 3e8, "300M"),
    ("flops", "1e3k"): ("left", 1e6, "1e3k"),
    ("disk", "5MB"): ("left", 5.0, "5MB"),
    ("disk", "500 kB"): ("left", 0.5, "500kB"),
    ("disk", ".5"): ("removed", 0.5, "0.5"),
    ("memory", "1GiB"): ("left", 1073.741824, "1GiB"),
    ("memory", "60MB"): ("left", 60.0, "60MB"),
    ("latency", "2ms"): ("left", 2.0, "2ms"),
    ("latency", "0.5 s"): ("left", 500.0, "0.5s"),
    ("latency", "250us"): ("left", 0.25, "250us"),
    ("speedup", 4): ("factor", 4.0, "4x"),
    ("speedup", "4X"): ("factor", 4.0, "4x"),
    ("speedup", "2.50x"): ("factor", 2.5, "2.5x"),
}


NEVER = ("", "abc", "nan", "-1", "-50%", "1e999", "0x10", "5 %%")
NO_COUNT = ("1", "3", "999", "1000.5", "100%", "0M", "5MB")


@pytest.mark.parametrize("asked", READ, ids=str)
def test_what_is_written(asked: tuple[str, str | float]) -> None:
    limit = read_limit(*asked)
    form, value, written = READ[asked]
    assert (limit.name, limit.form, limit.written) == (asked[0], form, written)
    assert limit.value == pytest.approx(value)
    # What a folder is named by can itself be asked for.
    again = read_limit(limit.name, limit.written)
    assert again == limit


@pytest.mark.parametrize(
    ("name", "written"),
    [
        *((name, text) for name in QUANTITIES for text in NEVER),
        *((name, "2ms") for name in QUANTITIES if name != "latency"),
        *((name, "4x") for name in QUANTITIES if name != "speedup"),
        *((name, text) for name in ("params", "weights", "flops") for text in NO_COUNT),
        *((name, text) for name in ("disk", "memory") for text in ("5", "100%", "5M", "0MB", "5m")),
        ("nodes", "1"),
        ("nodes", "300M"),
        ("latency", "2"),
        ("latency", "0.5"),
        ("latency", "50%"),
        ("latency", "0ms"),
        ("speedup", "1"),
        ("speedup", "0.5"),
        ("speedup", "400%"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_with_what_does(name: str, written: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_limit(name, written)
    assert refused.value.in_shell() == f"--{name} {written}: expected {QUANTITIES[name].expected}"
    spelled = f"nodes={written}" if name == "nodes" else f"limits={{'{name}': '{written}'}}"
    assert str(refused.value) == f"{spelled}: expected {QUANTITIES[name].expected}"


def test_an_unknown_quantity() -> None:
    with pytest.raises(UsageError, match=r"'energy'; known: nodes, weights, .*speedup"):
        read_limit("energy", 0.5)


def test_nothing_asked_for_names_every_option() -> None:
    with pytest.raises(UsageError) as refused:
        read_limits(dict.fromkeys(QUANTITIES))
    assert all(f"--{name}" in refused.value.in_shell() for name in QUANTITIES)
    assert all(name in str(refused.value) for name in QUANTITIES)


def test_what_may_be_left() -> None:
    assert read_limit("params", "90%").left(11_689_512) == pytest.approx(1_168_951.2)
    assert read_limit("params", 0.1).left(10) == 9  # and not 9.000000000000002 or 8.999...
    assert read_limit("params", "2M").left(11_689_512) == 2e6
    assert read_limit("speedup", 4).left(20.0) == 5.0


def test_nodes_are_a_limit_like_any_other() -> None:
    alone = read_limits({"nodes": "0.5"})
    both = read_limits({"speedup": 2, "nodes": 0.5})
    assert alone == (fraction_of_nodes(0.5),)
    assert [limit.name for limit in both] == ["nodes", "speedup"]
    assert nodes_of(alone) == nodes_of(both) == 0.5
    assert nodes_of((Limit("speedup", "factor", 2.0, "2x"),)) is None
