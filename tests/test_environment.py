from __future__ import annotations

import getpass
import platform
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import structprune
from structprune.environment import device_named, hardware, processor, software
from structprune.errors import DeviceUnavailableError, UsageError

CPU = torch.device("cpu")


def test_software_names_what_computes() -> None:
    found = software()
    assert found["structprune"] == structprune.__version__
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert "onnx" in found


def test_a_package_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("structprune.environment._PACKAGES", ("torch", "no-such-package"))
    assert set(software()) == {"structprune", "python", "torch"}


def test_hardware_names_the_machine_in_general_terms() -> None:
    found = hardware(CPU)
    assert found["threads"] == str(torch.get_num_threads())
    assert found["device"] == "cpu"
    assert found["processor"] == processor() != ""
    assert int(found["cores"]) >= 1
    assert "gpu" not in found


def test_no_user_host_or_folder_is_named() -> None:
    text = " ".join([*software().values(), *hardware(CPU).values()])
    for private in (getpass.getuser(), platform.node(), str(Path.home()), str(Path.cwd())):
        assert not re.search(rf"(?<!\w){re.escape(private)}(?!\w)", text), private


def test_the_cpu_is_there() -> None:
    assert device_named("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", "mps", "xpu"])
def test_what_is_no_device_of_ours_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="expected cpu, cuda or cuda:0"):
        device_named(name)


@pytest.mark.parametrize(("devices", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, "cuda:7")])
def test_a_gpu_that_is_not_there_is_refused(devices: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    with pytest.raises(DeviceUnavailableError, match=f"torch finds {devices} CUDA devices; use cpu"):
        device_named(name)


def test_a_gpu_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_named("cuda:1") == torch.device("cuda:1")
    assert device_named("cuda") == torch.device("cuda")
