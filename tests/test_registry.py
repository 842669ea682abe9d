from __future__ import annotations

import sys
from pathlib import Path

import pytest

from structprune.errors import UnknownNameError, UsageError
from structprune.registry import Registry

GROUP = "structprune.test_shapes"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with an installed package of three entry points, one of them broken."""
    info = tmp_path / "shapely-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shapely-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\n"
        "circle = shapely_plugin:circle\n"
        "square = shapely_plugin:square\n"
        "broken = shapely_plugin_missing:shape\n"
        "unnamed = shapely_plugin:no_such_attribute\n"
    )
    (tmp_path / "shapely_plugin.py").write_text(
        "def circle():\n    return 0\n\n\ndef square():\n    return -4\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shapely_plugin", raising=False)
    return tmp_path


def shapes(group: str | None = GROUP) -> Registry[object]:
    registry: Registry[object] = Registry("shape", group)
    registry.register("square")(4)
    registry.register("triangle")(3)
    return registry


def test_a_name_gives_what_was_filed_under_it() -> None:
    assert shapes()["square"] == 4
    assert "triangle" in shapes()
    assert list(shapes()) == ["square", "triangle"]


def test_register_is_a_decorator_that_returns_its_argument() -> None:
    registry = shapes()

    @registry.register("line")
    def line() -> int:
        return 2

    assert registry["line"] is line


def test_a_name_is_not_filed_twice() -> None:
    with pytest.raises(ValueError, match="shape 'square' is registered twice"):
        shapes().register("square")(5)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("sqare", "did you mean 'square'? "), ("xyz", ""), ("", ""), ("Triangle", "did you mean 'triangle'? ")],
)
def test_an_unknown_name_lists_the_known_ones(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        shapes()[name]
    assert str(error.value) == f"unknown shape {name!r}; {hint}known: square, triangle"
    assert error.value.exit_code == 2
    assert name not in shapes()


@pytest.mark.usefixtures("plugins")
def test_plugins_are_listed_without_being_loaded() -> None:
    assert list(shapes()) == ["broken", "circle", "square", "triangle", "unnamed"]
    assert "circle" in shapes()
    assert shapes()["triangle"] == 3
    with pytest.raises(UnknownNameError, match="known: broken, circle, square, triangle, unnamed"):
        shapes()["pentagon"]
    assert "shapely_plugin" not in sys.modules


@pytest.mark.usefixtures("plugins")
def test_a_plugin_is_loaded_when_it_is_named() -> None:
    circle = shapes()["circle"]
    assert "shapely_plugin" in sys.modules
    assert circle is sys.modules["shapely_plugin"].circle
    assert callable(circle)
    assert circle() == 0


@pytest.mark.usefixtures("plugins")
def test_our_own_name_wins_over_a_plugin() -> None:
    assert shapes()["square"] == 4
    assert "shapely_plugin" not in sys.modules


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("name", ["broken", "unnamed"])
def test_a_plugin_that_cannot_be_loaded_says_which(name: str) -> None:
    with pytest.raises(UsageError, match=rf"the plug-in shapely_plugin.*{name}.* can't be loaded"):
        shapes()[name]


@pytest.mark.usefixtures("plugins")
def test_a_closed_table_takes_no_plugins() -> None:
    assert list(shapes(group=None)) == ["square", "triangle"]
    assert "circle" not in shapes(group=None)


def test_a_plugin_adds_a_criterion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from structprune.scoring.criteria import CRITERIA, named

    info = tmp_path / "mine-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[structprune.criteria]\nmy_score = my_scores_plugin:my_score\n")
    (tmp_path / "my_scores_plugin.py").write_text(
        "from structprune.scoring.scores import Scores\n"
        "def my_score(gated, sampling):\n"
        "    return Scores(gated.ones(requires_grad=False), 'my_score')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(CRITERIA, "_entries", dict(CRITERIA._entries))
    assert "my_score" in list(CRITERIA)
    _, mine = named("crop+my-score")
    assert mine is sys.modules.pop("my_scores_plugin").my_score
