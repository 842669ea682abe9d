from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Before anything imports ONNX Runtime, which else reports to its makers; see exporters.runtime.import_ort.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

REPOSITORY = Path(__file__).resolve().parents[1]

SLOW = (
    "cli/",
    "criteria/test_common.py",
    "criteria/test_oracles.py",
    "exporters/test_emissions.py",
    "exporters/test_measure.py",
    "exporters/test_to_onnx.py",
    "test_align.py",
    "test_any_network.py",
    "test_api_losses.py",
    "test_api_options.py",
    "test_checkpoint_refusals.py",
    "test_common_layers.py",
    "test_fresh_process.py",
    "test_fuzz.py",
    "test_isolated.py",
    "test_limited.py",
    "test_other_layers.py",
    "test_silence.py",
    "test_surgery.py",
    "trainer/test_crew.py",
    "trainer/test_run.py",
)
"""Files that take eight seconds or more, and whole runs from the shell; ``-m "not slow"`` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files."""
    tests = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(tests) and str(item.path.relative_to(tests)).startswith(SLOW):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data that lie beside the repository")
    return folder
