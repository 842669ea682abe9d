"""Who may import whom, and what may lie where."""

from __future__ import annotations

import ast
import fnmatch
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A file imports only what stands above it. A folder counts as one: inside it, any import is fine.
ORDER = (
    "_version",
    "errors",
    "choices",
    "registry",
    "files",
    "report",
    "environment",
    "distributed",
    "nn",
    "data",
    "channels",
    "pruning",
    "scoring",
    "hardware",
    "models",
    "reconstruction",
    "proofs",
    "limits",
    "training",
    "workflows",
    "api",
    "cli",
    "__main__",
    "__init__",
)
FREE = {"cli", "__main__", "__init__"}
EXPORTERS_MAY_IMPORT = {"report", "errors", "choices", "files", "models", "hardware", "nn"}
INSTALLED = ("structprune", "exporters")
NEVER_IMPORTED = {"benchmarks", "tests", "tools"}

TOP_LEVEL = {
    *INSTALLED,
    *NEVER_IMPORTED,
    "setup.cfg",
    "pyproject.toml",
    "ruff.toml",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CITATION.cff",
    "LICENSE",
    "docs",
    "examples",
}
BESIDE_CODE = {"py.typed", "__pycache__"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> tuple[str, ...]:
    """The dotted name of a file below the root, as its parts: ('structprune', 'tasks', 'read')."""
    return path.relative_to(ROOT).with_suffix("").parts


def imports(source: str, module: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every dotted name that a file imports, wherever the import stands; relative ones made absolute."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module[: -node.level] if node.level else ()
            dotted = (*base, *(node.module.split(".") if node.module else ()))
            yield from ((*dotted, alias.name) for alias in node.names)


def unit(dotted: tuple[str, ...]) -> str:
    """The entry of ORDER that a name below ``structprune`` belongs to."""
    is_unit = len(dotted) > 1 and dotted[1] in ORDER
    return dotted[1] if is_unit else "__init__"


def offences(source: str, module: tuple[str, ...]) -> list[str]:
    """What a file of an installed package imports and may not."""
    return [".".join(dotted) for dotted in imports(source, module) if not may_import(module, dotted)]


def may_import(module: tuple[str, ...], dotted: tuple[str, ...]) -> bool:
    if dotted[0] in NEVER_IMPORTED:
        return False
    if dotted[0] not in INSTALLED:
        return True
    if module[0] == "exporters":
        return dotted[0] == "exporters" or unit(dotted) in EXPORTERS_MAY_IMPORT
    if dotted[0] == "exporters":
        return unit(module) in {"api", "cli"}  # the two shells
    return unit(module) in FREE or ORDER.index(unit(dotted)) <= ORDER.index(unit(module))


@pytest.mark.parametrize(
    "path", [p for name in INSTALLED for p in sources(name)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_point_upwards(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8"), module_of(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("structprune.pruning.budget", "from structprune.scoring.score import Scoring"),
        ("structprune.pruning.budget", "def late():\n    import structprune.workflows.compress"),
        ("structprune.scoring.criteria.crop", "from ...training import evaluate"),
        ("structprune.scoring.criteria.crop", "from ... import training"),
        ("structprune.pruning.gates", "from structprune import compress"),
        ("structprune.pruning.gates", "import structprune"),
        ("structprune.workflows.compress", "from exporters.measure import measure"),
        ("structprune.__init__", "import exporters"),
        ("structprune.cli.main", "from tests.networks import TinyMLP"),
        ("exporters.measure", "from structprune.workflows.compress import compress"),
        ("exporters.measure", "import benchmarks.widths"),
    ],
)
def test_an_import_that_points_downwards_is_seen(module: str, source: str) -> None:
    assert len(offences(source, tuple(module.split(".")))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("structprune.pruning.surgery", "from structprune.pruning.budget import Plan"),
        (
            "structprune.scoring.criteria.crop",
            "from .snip import snip\nfrom ...pruning.gates import GatedModel",
        ),
        ("structprune.cli.main", "import exporters.measure, structprune\nfrom structprune import pipeline"),
        (
            "exporters.measure",
            "from structprune.report.data import Measurement\nfrom exporters.probes.disk import disk",
        ),
        ("structprune.__init__", "from structprune.workflows.compress import compress"),
    ],
)
def test_an_import_that_points_upwards_passes(module: str, source: str) -> None:
    assert offences(source, tuple(module.split("."))) == []


def test_every_file_of_structprune_has_its_place_in_the_order() -> None:
    names = {path.stem for path in (ROOT / "structprune").iterdir() if path.name not in BESIDE_CODE}
    assert names <= set(ORDER)


@pytest.mark.parametrize("package", [*INSTALLED, "benchmarks", "tests"])
def test_packages_hold_code_and_results_only(package: str) -> None:
    strangers = [
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"} and path.name not in BESIDE_CODE
        if not any(path.is_relative_to(ROOT / data) for data in ("benchmarks/results", "tests/fixtures"))
    ]
    assert strangers == []


def test_the_top_level_holds_only_what_the_design_names() -> None:
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    strangers = {
        name for name in names - TOP_LEVEL if not any(fnmatch.fnmatch(name, line) for line in ignored)
    }
    assert strangers == set()


def test_pyproject_is_about_building_only() -> None:
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))) == {"build-system"}


def test_the_exporters_package_file_is_a_docstring() -> None:
    (statement,) = ast.parse((ROOT / "exporters" / "__init__.py").read_text(encoding="utf-8")).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
    assert isinstance(statement.value.value, str)
