"""The profile of this machine, probed once and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from exporters.profiling.probe import probe
from exporters.runtime.import_ort import load_onnxruntime
from exporters.runtime.providers import check_device, device_kind
from structprune.errors import InputError
from structprune.hardware.profile import DeviceProfile, Machine, read_profile, to_json


def own_profile(
    machine: Machine,
    *,
    device: str = "cpu",
    precision: str = "float32",
    threads: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> DeviceProfile:
    """Return the profile of this machine: the one that is kept, or else a new one, which is kept then.

    A cache that can't be read or written costs the time of probing again, and is no error.

    Raises:
        DeviceUnavailableError: the device, or ONNX Runtime's provider for it, is not there.
    """
    check_device(device)
    path = cache_file(machine, device, precision, threads)
    found = path and _kept(path, machine)
    if found:
        return found
    say("probing which widths this machine likes, once")
    made = probe(machine, device=device, precision=precision, threads=threads, say=say)
    if path is not None:
        keep(path, made)
    return made


def cache_file(machine: Machine, device: str, precision: str, threads: int) -> Path | None:
    """Return where the profile of this machine and runtime is kept; None where the user has no folder."""
    asked = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A relative path there is to be ignored, says the XDG base directory specification.
        cache = Path(asked) if Path(asked).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    version = load_onnxruntime().__version__
    digest = hashlib.sha256(str(machine).encode()).hexdigest()[:12]
    name = f"onnxruntime-{version}-{device_kind(device)}-{precision}-{threads}-{digest}.json"
    return cache / "structprune" / "profiles" / name


def keep(path: Path, profile: DeviceProfile) -> None:
    """Write a profile into the cache, whole or not at all."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".profile-", dir=path.parent) as stage:
            draft = Path(stage, path.name)
            draft.write_text(to_json(profile), encoding="utf-8")
            draft.replace(path)


def _kept(path: Path, machine: Machine) -> DeviceProfile | None:
    try:
        found = read_profile(path)
    except InputError:
        return None
    return found if found.machine == machine else None
