from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from structprune.environment import processor
from structprune.errors import DeviceUnavailableError, InputError
from structprune.hardware.profile import (
    Machine,
    check_measuring,
    from_json,
    note_choosing,
    read_profile,
    this_machine,
    to_json,
)
from tests.device_profiles import ELSEWHERE, made_up


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    profile = made_up()
    path = tmp_path / "made-up.json"
    path.write_text(to_json(profile))
    assert read_profile(path) == profile == from_json(to_json(profile))
    assert to_json(from_json(to_json(profile))) == to_json(profile)
    assert json.loads(to_json(profile))["schema"] == 1
    assert from_json(to_json(replace(profile, steps=()))).steps == ()


def changed(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda raw: {**raw, **values}


def rate(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(raw: dict[str, Any]) -> dict[str, Any]:
        raw["kernels"]["1x1"]["slow"]["multiply"] = value
        return raw

    return change


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another schema": (changed(schema=2), "schema 1, got 2"),
    "a list": (lambda raw: [raw], "got 'list'"),
    "a report": (lambda _: {"schema": 1, "method": "snip"}, "method"),
    "a key more": (changed(host="box"), "host"),
    "a key less": (lambda raw: {k: v for k, v in raw.items() if k != "threads"}, "threads"),
    "no kernels": (changed(kernels={}), "3x3"),
    "kernels of another kind": (changed(kernels=[1]), "TypeError"),
    "a negative rate": (rate(-1.0), "not negative"),
    "a rate that is no number": (rate("fast"), "fast"),
    "a rate beyond all numbers": (rate(10**400), "OverflowError"),
    "no threads": (changed(threads=0), "0 is no whole number"),
    "a name that is none": (changed(name=["x"]), "name is no name"),
    "a name of control characters": (changed(name="a\x1b[31m"), "name is no name"),
    "a step of no kind": (changed(steps=[["5x5", 1, 1, 1, 1.0]]), "no measured step"),
    "a step too short": (changed(steps=[["1x1", 1]]), "not enough values"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_file_that_is_no_profile_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    change, words = BROKEN[name]
    path = tmp_path / "file.json"
    path.write_text(json.dumps(change(json.loads(to_json(made_up())))))
    with pytest.raises(InputError, match=r"is no device profile: .*structprune profile -o FILE") as error:
        read_profile(path)
    assert words in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000], ids=range(4))
def test_bytes_that_are_no_json_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"file\.json is no device profile"):
        read_profile(path)
    with pytest.raises(InputError, match="No such file"):
        read_profile(tmp_path / "none.json")
    with pytest.raises(InputError, match="Is a directory"):
        read_profile(tmp_path)


def test_a_profile_of_another_version_says_so() -> None:
    own = made_up(this_machine())
    here = replace(own, version=onnxruntime.__version__)
    assert "another version" not in note_choosing(here)
    older = note_choosing(replace(own, version="0.9"))
    assert older.endswith(f", another version of {own.runtime} than here ({here.version})")


def test_another_processors_profile_chooses_and_does_not_measure() -> None:
    here = this_machine()
    assert here.processor == processor()
    own, other = made_up(here), made_up()
    check_measuring(own, here)
    assert "another processor" not in note_choosing(own)
    with pytest.raises(DeviceUnavailableError, match="can't be measured here") as error:
        check_measuring(other, here)
    assert str(ELSEWHERE) in str(error.value)
    assert str(here) in str(error.value)
    assert f"another processor than this one ({here})" in note_choosing(other)
    with pytest.raises(DeviceUnavailableError):
        check_measuring(own, Machine(here.processor, "SSE"))
